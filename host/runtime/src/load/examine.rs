//! A look at a component before a compiler sees it: what it would cost is told by reading it once,
//! in a few milliseconds.
//!
//! A compiler's time follows from what its input declares, and a few bytes declare much:
//! `50000 locals` is three of them, and each local of each function is a variable that the compiler
//! keeps track of. Loops and branches of one function are worse: each is weighed against all
//! others. So the cost is estimated in bytes of ordinary code, by figures that were measured
//! (Cranelift 0.135: 2.5 µs a byte). What is over the limit is a bomb; CPython with its standard
//! library is at a third of it.

use wasmparser::{ComponentType, FunctionBody, Instance, Operator, Parser, Payload};

use super::nesting::Nesting;
use crate::memory::HANDLES;

/// The most that a function may declare as its locals. Interpreters and unoptimized builds have
/// some thousands.
const LOCALS: u64 = 10_000;

/// The longest body of a function, in bytes. The dispatch loops of interpreters have 100 to 400 KB.
const BODY: usize = 2 << 20;

/// The most that all functions may cost, in bytes of ordinary code: 80 s of processor time.
const WORK: u64 = 32 << 20;

/// What a local costs by itself, in those bytes; less than that, which leaves something for its
/// memory.
const A_LOCAL: u64 = 1;

/// The loops of a function cost the square of their number, divided by this; its branches likewise.
const LOOPS: u64 = 20;
const BRANCHES: u64 = 300;

/// The most functions, and the most globals, of all modules together: each is a record in every
/// instance.
const FUNCTIONS: u64 = 200_000;
const GLOBALS: u64 = 50_000;

/// The most modules and components within it.
const PARTS: u64 = 200;

/// The most instances of components, itself and those within it.
const COMPONENT_INSTANCES: u64 = 200;

/// What the runtime keeps in an instance for a function, an import or a global, in bytes, rounded
/// up.
const A_RECORD: u64 = 48;

/// What it keeps for a handle, in bytes, rounded up.
const A_HANDLE: u64 = 24;

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Examined {
    /// What an instance takes beside its memories and tables, in bytes.
    pub(super) fixed: usize,
    functions: u64,
    globals: u64,
    parts: u64,
    modules: u64,
    instances: u64,
    work: u64,
    /// Whether it can come to have handles: it makes resources, or asks for some of the host.
    handles: bool,
}

/// Reads a component from one end to the other.
///
/// # Errors
///
/// It is damaged, or would cost more to compile or to instantiate than any plugin needs: in words
/// that follow "it".
pub(super) fn examine(bytes: &[u8]) -> Result<Examined, Refusal> {
    let mut seen = Examined::default();
    // Records of the module in hand, and of the largest.
    let (mut records, mut largest) = (0, 0);
    let mut nesting = Nesting::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| Refusal::damaged(&error))?;
        if !nesting.read(&payload).map_err(|error| Refusal::damaged(&error))? {
            return Err(Refusal::costly("hands over components, whose instances cannot be counted".into()));
        }
        match payload {
            Payload::FunctionSection(section) => {
                seen.functions += u64::from(section.count());
                records += u64::from(section.count());
            }
            Payload::ImportSection(section) => {
                seen.functions += u64::from(section.count());
                records += u64::from(section.count());
            }
            Payload::GlobalSection(section) => {
                seen.globals += u64::from(section.count());
                records += u64::from(section.count());
            }
            Payload::ModuleSection { .. } => {
                (seen.parts, seen.modules) = (seen.parts + 1, seen.modules + 1);
                records = 0;
            }
            Payload::ComponentSection { .. } => seen.parts += 1,
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance.map_err(|error| Refusal::damaged(&error))? {
                        seen.instances += 1;
                    }
                }
            }
            Payload::ComponentTypeSection(section) => {
                for declared in section {
                    if let ComponentType::Resource { .. } = declared.map_err(|error| Refusal::damaged(&error))? {
                        seen.handles = true;
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    // Of ours none has resources.
                    let import = import.map_err(|error| Refusal::damaged(&error))?;
                    seen.handles |= import.name.name.starts_with("wasi:");
                }
            }
            Payload::CodeSectionEntry(body) => seen.work += cost(&body)?,
            _ => {}
        }
        largest = largest.max(records);
        seen.check()?;
    }
    // Each module once, and the largest for every further instance: which one that is of, would
    // have to be followed through aliases.
    if nesting.total > COMPONENT_INSTANCES {
        let reason = format!(
            "comes to {} instances of components within it, over the limit of {COMPONENT_INSTANCES}",
            nesting.total
        );
        return Err(Refusal::costly(reason));
    }
    let again = seen.instances.saturating_sub(seen.modules).saturating_mul(largest);
    let records = (seen.functions + seen.globals + again).saturating_mul(A_RECORD);
    // A table keeps its size when handles are given back, so that each of them may come to hold as
    // many as all together; one more is the host's.
    let tables = if seen.handles { nesting.total + 1 } else { 0 };
    seen.fixed = records.saturating_add(tables * HANDLES as u64 * A_HANDLE) as usize;
    Ok(seen)
}

impl Examined {
    fn check(&self) -> Result<(), Refusal> {
        for (what, found, most) in [
            ("functions", self.functions, FUNCTIONS),
            ("globals", self.globals, GLOBALS),
            ("modules and components within it", self.parts, PARTS),
        ] {
            if found > most {
                return Err(Refusal::costly(format!("has {found} {what}, over the limit of {most}")));
            }
        }
        if self.work > WORK {
            let reason = format!("would take as long to compile as more than {} MiB of ordinary code", WORK >> 20);
            return Err(Refusal::costly(reason));
        }
        Ok(())
    }
}

fn cost(body: &FunctionBody<'_>) -> Result<u64, Refusal> {
    let range = body.range();
    let (size, at) = (range.end - range.start, range.start);
    if size > BODY {
        return Err(Refusal::costly(format!("has a function of {size} bytes at {at:#x}, over the limit of {BODY}")));
    }
    let mut locals: u64 = 0;
    let reader = body.get_locals_reader().map_err(|error| Refusal::damaged(&error))?;
    for group in reader {
        locals += u64::from(group.map_err(|error| Refusal::damaged(&error))?.0);
        if locals > LOCALS {
            let reason = format!("has a function with more than {LOCALS} local variables at {at:#x}");
            return Err(Refusal::costly(reason));
        }
    }
    let (mut loops, mut branches) = (0u64, 0u64);
    for operator in body.get_operators_reader().map_err(|error| Refusal::damaged(&error))? {
        match operator.map_err(|error| Refusal::damaged(&error))? {
            Operator::Loop { .. } => loops += 1,
            Operator::If { .. } | Operator::Else | Operator::BrIf { .. } => branches += 1,
            Operator::BrTable { targets } => branches += u64::from(targets.len()),
            _ => {}
        }
    }
    Ok(size as u64 + locals * A_LOCAL + loops * loops / LOOPS + branches * branches / BRANCHES)
}

/// Why it is not compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no whole component.
    Damaged(String),
    /// It would cost too much.
    Costly(String),
}

impl Refusal {
    fn damaged(error: &wasmparser::BinaryReaderError) -> Self {
        Self::Damaged(error.to_string())
    }

    fn costly(reason: String) -> Self {
        Self::Costly(reason)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use wasm_encoder::{
        BlockType, CodeSection, Component, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType,
        InstructionSink, Module, ModuleSection, TypeSection, ValType,
    };

    use super::*;
    use crate::description::bundled;

    /// So many functions with so many locals each, and this body.
    fn functions(n: usize, locals: u32, body: impl Fn(&mut InstructionSink<'_>)) -> Vec<u8> {
        let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
        types.ty().function([], []);
        for _ in 0..n {
            declared.function(0);
            let mut function = Function::new([(locals, ValType::I32)]);
            body(&mut function.instructions());
            function.instructions().end();
            code.function(&function);
        }
        let mut module = Module::new();
        module.section(&types).section(&declared).section(&code);
        component(&module)
    }

    fn component(module: &Module) -> Vec<u8> {
        let mut component = Component::new();
        component.section(&ModuleSection(module));
        component.finish()
    }

    fn refusal(bytes: &[u8]) -> String {
        match examine(bytes).unwrap_err() {
            Refusal::Costly(reason) => reason,
            Refusal::Damaged(reason) => panic!("damaged: {reason}"),
        }
    }

    fn loops(n: usize) -> impl Fn(&mut InstructionSink<'_>) {
        move |body| {
            for _ in 0..n {
                body.loop_(BlockType::Empty).i32_const(0).br_if(0).end();
            }
        }
    }

    #[test]
    fn what_a_compiler_would_choke_on_is_told_before() {
        let nothing = |_: &mut InstructionSink<'_>| {};
        assert!(refusal(&functions(1, 10_001, nothing)).contains("more than 10000 local variables"));
        // Each of these is within the limit of one function.
        assert!(refusal(&functions(3_400, 9_999, nothing)).contains("as long to compile as"));
        assert!(refusal(&functions(1, 0, loops(26_000))).contains("as long to compile as"));
        assert!(examine(&functions(20, 100, loops(1_000))).is_ok());
        let long = |body: &mut InstructionSink<'_>| (0..BODY).for_each(|_| _ = body.nop());
        assert!(refusal(&functions(1, 0, long)).contains("a function of"));
        let mut globals = GlobalSection::new();
        for _ in 0..=GLOBALS {
            let global = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
            globals.global(global, &ConstExpr::i32_const(0));
        }
        let mut module = Module::new();
        module.section(&globals);
        assert!(refusal(&component(&module)).contains("50001 globals"));
        let parts = "(component)".repeat(PARTS as usize + 1);
        assert!(refusal(&wat::parse_str(format!("(component {parts})")).unwrap()).contains("201 modules"));
    }

    #[test]
    fn a_plugin_that_makes_resources_of_its_own_is_taken() {
        // QuickJS's toolchain writes such ones, in the place of WASI's.
        let makes = "(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))";
        let seen = examine(&wat::parse_str(makes).unwrap()).unwrap();
        assert_eq!(seen.fixed, 2 * HANDLES * A_HANDLE as usize, "its tables of handles are paid for");
    }

    #[test]
    fn instances_that_multiply_are_refused_before_anybody_makes_them() {
        let mut text = "(component)".to_owned();
        for _ in 0..3 {
            let named = text.replacen("(component", "(component $c", 1);
            text = format!("(component {named} {})", "(instance (instantiate $c))".repeat(100));
        }
        let reason = refusal(&wat::parse_str(text).unwrap());
        assert!(reason.contains("comes to 1010101 instances"), "{reason}");
    }

    #[test]
    fn what_is_bundled_is_far_from_the_limits() {
        for bundled in bundled::ALL {
            let seen = examine(bundled.bytes).unwrap();
            assert!(seen.work < WORK / 50, "{} would cost {}", bundled.name, seen.work);
            assert!(seen.fixed < 1 << 20, "{} takes {}", bundled.name, seen.fixed);
        }
    }

    #[test]
    fn a_damaged_component_is_called_damaged() {
        let whole = bundled::ALL[0].bytes;
        assert!(matches!(examine(&whole[..whole.len() - 10]), Err(Refusal::Damaged(_))));
    }
}
