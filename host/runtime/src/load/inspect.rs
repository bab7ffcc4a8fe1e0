//! What a component is, asks for and would get, told also of one that is refused.

use wasmparser::{Parser, Payload};

use super::{loader, plugin::Plugin};
use crate::{
    compile::Abandon,
    description::{Access, Grants, Kind, LoadError, hex},
    engine::Engine,
};

/// One import and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its full name.
    pub name: String,
    /// Whether it is given.
    pub access: Access,
}

/// A linear memory that a component declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// What it begins with, in bytes.
    pub initial: u64,
    /// What it may grow to by its own word, in bytes; none leaves it to the host.
    pub maximum: Option<u64>,
}

/// What can be said of a component.
pub struct Inspection {
    /// Where the bytes came from.
    pub origin: String,
    /// Its size in bytes.
    pub size: usize,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// What it decides; none when it is no plugin of this host.
    pub kind: Option<Kind>,
    /// The world that it targets; none when it is no plugin of this host.
    pub world: Option<String>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// What it exports, by full name.
    pub exports: Vec<String>,
    /// The memories that its modules declare.
    pub memories: Vec<MemoryLimits>,
    /// What it was to be given beyond its world.
    pub grants: Grants,
    /// The plugin, or why it is refused.
    pub loaded: Result<Plugin, LoadError>,
}

impl Engine {
    /// Looks into a component, and loads it if that can be. It may compile for some seconds: call
    /// it on a blocking thread.
    ///
    /// # Errors
    ///
    /// The bytes are no component at all. A component that is refused is no error here.
    pub fn inspect(&self, bytes: &[u8], origin: &str, grants: Grants) -> Result<Inspection, LoadError> {
        loader::check_header(bytes, origin, self.limits())?;
        let invalid = |reason: String| LoadError::Invalid { origin: origin.into(), reason };
        let (digest, component, _) = self.examine_and_compile(bytes, origin, &Abandon::default())?;
        let (imports, exports) = loader::names(self, &component);
        let target = loader::classify(&exports, origin).ok();
        let kind = target.map(|(kind, _)| kind);
        // Of a component of another world it can still be said what a policy would be given.
        let access = |name: &String| Access::of(name, kind.unwrap_or(Kind::Policy), grants);
        Ok(Inspection {
            origin: origin.into(),
            size: bytes.len(),
            sha256: hex(&digest),
            kind,
            world: target.map(|(kind, interface)| kind.world(interface)),
            imports: imports.iter().map(|name| Import { name: name.clone(), access: access(name) }).collect(),
            exports,
            memories: memories(bytes).map_err(|error| invalid(error.to_string()))?,
            grants,
            loaded: self.load_allowing(bytes, origin, grants),
        })
    }
}

fn memories(bytes: &[u8]) -> wasmparser::Result<Vec<MemoryLimits>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::MemorySection(section) = payload? {
            for memory in section {
                let memory = memory?;
                let page = 1u64 << memory.page_size_log2.unwrap_or(16);
                let bytes = |pages: u64| pages.saturating_mul(page);
                found.push(MemoryLimits { initial: bytes(memory.initial), maximum: memory.maximum.map(bytes) });
            }
        }
    }
    Ok(found)
}
