//! How many instances of components an instance of a component comes to, read from its bytes.
//!
//! Components within components multiply: three levels, each of which instantiates the one below a
//! hundred times, are a few hundred bytes and a million instances, and the host keeps a record and
//! a table of handles for each.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Payload,
};

/// What is being read, from the outermost to the innermost.
#[derive(Default)]
pub(super) struct Nesting {
    open: Vec<Part>,
    /// How many instances the whole comes to, itself included.
    pub(super) total: u64,
}

/// A component, or a module, which has none.
#[derive(Default)]
struct Part {
    /// How many components one of it instantiates.
    makes: u64,
    /// How many instances the heaviest component comes to that it can name.
    heaviest: u64,
}

impl Nesting {
    /// Takes the next part of the bytes. Answers whether it can still be counted: a component that
    /// came from elsewhere could be any. No toolchain hands over components.
    pub(super) fn read(&mut self, payload: &Payload<'_>) -> Result<bool, BinaryReaderError> {
        match payload {
            Payload::Version { .. } => self.open.push(Part::default()),
            Payload::End(_) => self.end(),
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let (ComponentInstance::Instantiate { .. }, Some(part)) = (instance?, self.open.last_mut()) {
                        part.makes += 1;
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    if let ComponentTypeRef::Component(_) = import?.ty {
                        return Ok(false);
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    match alias? {
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            return Ok(false);
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, .. } => self.reach_out(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// The innermost one can name a component of one around it: which, is not looked up.
    fn reach_out(&mut self) {
        let heaviest = self.open.iter().map(|part| part.heaviest).max().unwrap_or_default();
        if let Some(part) = self.open.last_mut() {
            part.heaviest = heaviest;
        }
    }

    fn end(&mut self) {
        let Some(part) = self.open.pop() else { return };
        let comes_to = part.makes.saturating_mul(part.heaviest).saturating_add(1);
        match self.open.last_mut() {
            Some(around) => around.heaviest = around.heaviest.max(comes_to),
            None => self.total = comes_to,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use wasmparser::Parser;

    use super::*;

    /// None: it cannot be told.
    fn total(text: &str) -> Option<u64> {
        let bytes = wat::parse_str(text).unwrap();
        let mut nesting = Nesting::default();
        for payload in Parser::new(0).parse_all(&bytes) {
            if !nesting.read(&payload.unwrap()).unwrap() {
                return None;
            }
        }
        Some(nesting.total)
    }

    #[test]
    fn instances_within_instances_multiply_and_those_beside_each_other_add_up() {
        assert_eq!(total("(component)"), Some(1));
        assert_eq!(total("(component (component) (core module))"), Some(1));
        let two = "(instance (instantiate $c)) (instance (instantiate $c))";
        assert_eq!(total(&format!("(component (component $c) {two})")), Some(3));
        let three_levels = format!("(component (component $c (component $c (component $c) {two}) {two}) {two})");
        assert_eq!(total(&three_levels), Some(15));
        // The second one has nothing of the first, and then it has.
        let beside = |names: &str| {
            format!(
                "(component (component $a (component $c) {two}) (component $b (component $c) {names} (instance (instantiate $c)))
                    (instance (instantiate $b)))"
            )
        };
        assert_eq!(total(&beside("")), Some(4));
        assert_eq!(total(&beside("(instance (instantiate $a))")), Some(8));
    }

    #[test]
    fn a_component_that_is_handed_over_cannot_be_told() {
        assert_eq!(
            total(r#"(component (component $c (import "x" (component $x)) (instance (instantiate $x))))"#),
            None
        );
        let exported = r#"(component (component $c (component $in) (export "x" (component $in)))
            (instance $i (instantiate $c)) (alias export $i "x" (component $x)) (instance (instantiate $x)))"#;
        assert_eq!(total(exported), None);
    }
}
