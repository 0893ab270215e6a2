//! The rights table: which service may ask which for what. Data in `policy/rights.toml`.
//!
//! What the table does not list is forbidden. Operations are kept as bits by their number, so a
//! look-up costs nothing.

use isms_protocol::{Service, commserver, dbriver, doer, gate, kernel, resadmin};
use serde::Deserialize;

/// The table that this build carries.
const POLICY: &str = include_str!("../../../../policy/rights.toml");

const SERVICES: usize = Service::Worker as usize + 1;

/// Why a rights table is refused.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// Not TOML of the expected shape.
    #[error("the rights table cannot be read")]
    Parse {
        /// What and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An operation that the target does not have.
    #[error("the rights table names operation {operation}, which {to} does not have")]
    Operation {
        /// The operation.
        operation: String,
        /// The target.
        to: Service,
    },
    /// A pair of services that cannot speak with each other, or is listed twice.
    #[error(
        "the rights table may not list {from} to {to} here; list each pair of services once, and one service only for children"
    )]
    Pair {
        /// Who asks.
        from: Service,
        /// Who is asked.
        to: Service,
    },
}

/// What one service may ask another. Bits are operation numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Right {
    root: u64,
    child: u64,
    events: u64,
    pub(crate) asserts_project: bool,
    pub(crate) asserts_principal: bool,
    pub(crate) asserts_any_principal: bool,
}

impl Right {
    pub(crate) fn allows_root(&self, operation: u16) -> bool {
        self.root & bit(operation) != 0
    }

    pub(crate) fn allows_child(&self, operation: u16) -> bool {
        self.child & bit(operation) != 0
    }

    pub(crate) fn allows_event(&self, operation: u16) -> bool {
        self.events & bit(operation) != 0
    }
}

/// The whole table.
#[derive(Debug)]
pub(crate) struct Rights {
    pairs: [[Right; SERVICES]; SERVICES],
}

impl Rights {
    /// The table of `policy/rights.toml`, as it was when this was built.
    pub(crate) fn built_in() -> Result<Rights, RightsError> {
        Rights::parse(POLICY)
    }

    fn parse(text: &str) -> Result<Rights, RightsError> {
        let table: TableText = toml::from_str(text).map_err(|source| RightsError::Parse {
            source: Box::new(source),
        })?;
        let mut rights = Rights {
            pairs: Default::default(),
        };
        for RightText {
            from,
            to,
            root,
            child,
            events,
            asserts,
            reason: _,
        } in table.right
        {
            let right = Right {
                root: bits(to, &root)?,
                child: bits(to, &child)?,
                events: bits(to, &events)?,
                asserts_project: asserts.contains(&Asserted::Project),
                asserts_principal: asserts.contains(&Asserted::Principal),
                asserts_any_principal: asserts.contains(&Asserted::AnyPrincipal),
            };
            let pair = &mut rights.pairs[from as usize][to as usize];
            let talks_to_itself = from == to && (right.root | right.events != 0);
            if !Service::REGISTERED.contains(&from) || talks_to_itself || *pair != Right::default() {
                return Err(RightsError::Pair { from, to });
            }
            *pair = right;
        }
        Ok(rights)
    }

    /// What `from` may ask `to`.
    pub(crate) fn of(&self, from: Service, to: Service) -> &Right {
        &self.pairs[from as usize][to as usize]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableText {
    right: Vec<RightText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RightText {
    from: Service,
    to: Service,
    #[serde(default)]
    root: Vec<String>,
    #[serde(default)]
    child: Vec<String>,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    asserts: Vec<Asserted>,
    #[serde(rename = "reason")]
    #[allow(
        dead_code,
        reason = "demanded of whoever writes the table, for whoever reads it"
    )]
    reason: String,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Asserted {
    Project,
    Principal,
    #[serde(rename = "any-principal")]
    AnyPrincipal,
}

fn bit(operation: u16) -> u64 {
    1u64.checked_shl(operation.into()).unwrap_or(0)
}

fn bits(to: Service, names: &[String]) -> Result<u64, RightsError> {
    names.iter().try_fold(0, |bits, name| {
        let number = operation_number(to, name);
        let number = number.ok_or_else(|| RightsError::Operation {
            operation: name.clone(),
            to,
        })?;
        Ok(bits | bit(number))
    })
}

fn operation_number(service: Service, name: &str) -> Option<u16> {
    macro_rules! number {
        ($module:ident) => {
            $module::Operation::ALL
                .iter()
                .find(|operation| operation.name() == name)
                .map(|&found| found as u16)
        };
    }
    match service {
        Service::Kernel => number!(kernel),
        Service::Doer => number!(doer),
        Service::Dbriver => number!(dbriver),
        Service::Commserver => number!(commserver),
        Service::Resadmin => number!(resadmin),
        Service::Gate => number!(gate),
        Service::Worker => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_valid_and_every_operation_of_a_service_fits_its_bits() {
        let rights = Rights::built_in().unwrap();
        let invoke = doer::Operation::Invoke as u16;
        assert!(rights.of(Service::Commserver, Service::Doer).allows_root(invoke));
        assert!(!rights.of(Service::Commserver, Service::Doer).allows_child(invoke));
        let transaction = dbriver::Operation::Transaction as u16;
        assert!(
            rights
                .of(Service::Doer, Service::Dbriver)
                .allows_child(transaction)
        );
        assert!(
            !rights
                .of(Service::Doer, Service::Dbriver)
                .allows_root(transaction)
        );
        let fetch = commserver::Operation::Fetch as u16;
        assert!(rights.of(Service::Doer, Service::Commserver).allows_child(fetch));
        assert!(!rights.of(Service::Doer, Service::Commserver).allows_root(fetch));
        assert!(!rights.of(Service::Gate, Service::Commserver).allows_child(fetch));
        assert!(rights.of(Service::Doer, Service::Doer).allows_child(invoke));
        assert!(!rights.of(Service::Doer, Service::Doer).allows_root(invoke));
        let callee = resadmin::Operation::Callee as u16;
        assert!(!rights.of(Service::Doer, Service::Resadmin).allows_root(callee));
        let numbers = resadmin::Operation::ALL.iter().map(|&operation| operation as u16);
        assert!(numbers.max().unwrap() < 64);
    }

    #[test]
    fn only_edges_assert_a_principal() {
        let rights = Rights::built_in().unwrap();
        for from in [
            Service::Doer,
            Service::Dbriver,
            Service::Resadmin,
            Service::Worker,
            Service::Kernel,
        ] {
            for to in (0..).map_while(Service::from_u8) {
                assert!(!rights.of(from, to).asserts_principal, "{from} to {to}");
            }
        }
    }

    #[test]
    fn only_gate_asks_about_the_calls_of_any_principal() {
        let rights = Rights::built_in().unwrap();
        for from in Service::REGISTERED {
            for to in (0..).map_while(Service::from_u8) {
                let expected = (from, to) == (Service::Gate, Service::Kernel);
                assert_eq!(
                    rights.of(from, to).asserts_any_principal,
                    expected,
                    "{from} to {to}"
                );
            }
        }
    }

    #[test]
    fn an_operation_number_beyond_the_table_is_forbidden() {
        let right = Right {
            root: u64::MAX,
            ..Right::default()
        };
        assert!(right.allows_root(63));
        assert!(!right.allows_root(64));
        assert!(!right.allows_root(u16::MAX));
    }

    #[test]
    fn a_table_with_unknown_names_is_refused() {
        let check = |text: &str| Rights::parse(text).unwrap_err().to_string();
        assert_eq!(
            check("[[right]]\nfrom = 'gate'\nto = 'doer'\nroot = ['fly']\nreason = ''"),
            "the rights table names operation fly, which doer does not have"
        );
        assert_eq!(
            check("[[right]]\nfrom = 'worker'\nto = 'doer'\nreason = ''"),
            "the rights table may not list worker to doer here; list each pair of services once, and one service only for \
             children"
        );
        let itself = |key: &str| {
            let text = format!("[[right]]\nfrom = 'doer'\nto = 'doer'\n{key} = ['invoke']\nreason = ''");
            Rights::parse(&text).is_ok()
        };
        assert_eq!(
            (itself("child"), itself("root"), itself("events")),
            (true, false, false)
        );
        assert_eq!(
            check("[[right]]\nfrom = 'gate'\nto = 'doer'\nroots = []\nreason = ''"),
            "the rights table cannot be read"
        );
    }
}
