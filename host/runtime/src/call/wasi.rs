//! WASI preview 2 with nothing behind it, for toolchains whose output asks for it.
//!
//! What is linked follows the component's own imports, so that every 0.2 release fits. A function
//! of it answers, in this order:
//!
//! ```text
//!   standard output, error     lines for the plugin's log, under the log's bounds
//!   polling                    everything is ready at once: a plugin never waits
//!   clocks, random             if granted; else the call fails and says which grant it lacks
//!   a list, an option          empty: no environment, no arguments, no directories
//!   a result                   its error: access denied, or a closed stream
//!   a handle                   one with nothing behind it
//!   anything else              the call fails and says that there is nothing behind it
//! ```
//!
//! The crate `wasmtime-wasi` was not taken: it turns on wasmtime's `async` feature, which every
//! pick of every plugin would pay for.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use wasmtime::{
    Result, StoreContextMut, bail,
    component::{
        Component, Linker, ResourceAny, ResourceDynamic, ResourceType, Type, Val,
        types::{ComponentFunc, ComponentItem},
    },
};

use super::{host::HostState, stdio::Stream};
use crate::description::{Grants, Interface};

/// The resources of WASI 0.2; the index is the type of the handles that stand for it.
const RESOURCES: &[&str] = &[
    "error",
    "pollable",
    "input-stream",
    "output-stream",
    "terminal-input",
    "terminal-output",
    "descriptor",
    "directory-entry-stream",
    "network",
    "resolve-address-stream",
    "tcp-socket",
    "udp-socket",
    "incoming-datagram-stream",
    "outgoing-datagram-stream",
];

/// How much may be written to standard output or error in one call, in bytes.
const WRITE_AT_ONCE: u64 = 4096;

/// How many random bytes are given in one call.
const RANDOM_AT_ONCE: u64 = 4096;

/// What a handle stands for.
const NOTHING: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Where the clock that only goes forward begins. Not at the machine's start: how long that runs is
/// nobody's business.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Links what the component imports of WASI. What it may import was checked before.
pub(crate) fn link(linker: &mut Linker<HostState>, component: &Component, grants: Grants) -> Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let Some(package) = Interface::parse(name) else { continue };
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            bail!("{name} is imported as something else than an instance");
        };
        let mut linked = linker.instance(name)?;
        let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
        for (member, item) in instance.exports(&engine) {
            match item.ty {
                ComponentItem::Resource(_) => {
                    let Some(index) = RESOURCES.iter().position(|known| *known == member) else {
                        bail!("{name} has no resource {member}");
                    };
                    linked.resource(member, ResourceType::host_dynamic(index as u32), |mut store, _| {
                        store.data_mut().wasi.release();
                        Ok(())
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    let call = Call { package, interface: interface.into(), function: member.into(), grants };
                    linked
                        .func_new(member, move |store, ty, params, results| call.answer(store, &ty, params, results))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// One function that is linked.
struct Call {
    package: Interface,
    interface: Box<str>,
    function: Box<str>,
    grants: Grants,
}

/// What a function answers that does something.
enum Known {
    /// This.
    Value(Val),
    /// Nothing: it has no result.
    NoValue,
    /// It is not one of them.
    Nothing,
}

impl Call {
    fn answer(
        &self,
        mut store: StoreContextMut<'_, HostState>,
        ty: &ComponentFunc,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<()> {
        // Handles that came as parameters are in a table of the host until they are taken out.
        let mut handles = Vec::new();
        for param in params {
            take_handles(&mut store, param, &mut handles)?;
        }
        let result = ty.results().next();
        let value = match self.known(store.data_mut(), params, &handles)? {
            Known::Value(value) => Some(value),
            Known::NoValue => None,
            Known::Nothing => self.hollow(&mut store, result.as_ref())?,
        };
        match (results, value) {
            ([], _) => Ok(()),
            ([slot], Some(value)) => {
                *slot = value;
                Ok(())
            }
            _ => Err(self.nothing_behind()),
        }
    }

    /// The functions that do something.
    fn known(&self, state: &mut HostState, params: &[Val], handles: &[u32]) -> Result<Known> {
        let stream = handles.first().copied().unwrap_or(NOTHING);
        let done = Val::Result(Ok(None));
        let value = match (&*self.interface, &*self.function) {
            ("wasi:io/streams", "[method]output-stream.check-write") => {
                Val::Result(Ok(Some(Box::new(Val::U64(WRITE_AT_ONCE)))))
            }
            ("wasi:io/streams", "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush") => {
                if let [_, Val::List(bytes)] = params {
                    let bytes: Vec<u8> =
                        bytes.iter().map(|byte| if let Val::U8(byte) = byte { *byte } else { b'?' }).collect();
                    match stream {
                        STDOUT => state.wasi.write(Stream::Out, &bytes),
                        STDERR => state.wasi.write(Stream::Err, &bytes),
                        _ => {}
                    }
                }
                done
            }
            (
                "wasi:io/streams",
                "[method]output-stream.flush"
                | "[method]output-stream.blocking-flush"
                | "[method]output-stream.write-zeroes"
                | "[method]output-stream.blocking-write-zeroes-and-flush",
            ) => done,
            ("wasi:io/poll", "[method]pollable.ready") => Val::Bool(true),
            ("wasi:io/poll", "[method]pollable.block") => return Ok(Known::NoValue),
            ("wasi:io/poll", "poll") => Val::List((0..handles.len() as u32).map(Val::U32).collect()),
            ("wasi:cli/exit", _) => bail!("it called {}, which ends nothing but this call", self.interface),
            _ => match self.package {
                Interface::Clocks | Interface::Random if !self.grants.has(self.package.grant()) => {
                    let grant = self.package.grant().as_str();
                    bail!("it called {}, which it was not given; allow it with `--allow {grant}`", self.name())
                }
                Interface::Clocks => return Ok(self.clock()),
                Interface::Random => return self.random(params),
                _ => return Ok(Known::Nothing),
            },
        };
        Ok(Known::Value(value))
    }

    fn clock(&self) -> Known {
        let value = match (&*self.interface, &*self.function) {
            ("wasi:clocks/monotonic-clock", "now") => Val::U64(BEGAN.elapsed().as_nanos() as u64),
            ("wasi:clocks/monotonic-clock", "resolution") => Val::U64(1),
            ("wasi:clocks/wall-clock", "now") => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                datetime(now.as_secs(), now.subsec_nanos())
            }
            ("wasi:clocks/wall-clock", "resolution") => datetime(0, 1),
            _ => return Known::Nothing,
        };
        Known::Value(value)
    }

    fn random(&self, params: &[Val]) -> Result<Known> {
        let value = match (&*self.function, params) {
            ("get-random-bytes" | "get-insecure-random-bytes", [Val::U64(wanted)]) => {
                if *wanted > RANDOM_AT_ONCE {
                    bail!("it asked {} for {wanted} bytes; {RANDOM_AT_ONCE} are given at once", self.name());
                }
                let mut bytes = vec![0; *wanted as usize];
                fill(&mut bytes)?;
                Val::List(bytes.into_iter().map(Val::U8).collect())
            }
            ("get-random-u64" | "get-insecure-random-u64", []) => Val::U64(number()?),
            ("insecure-seed" | "get-insecure-seed", []) => Val::Tuple(vec![Val::U64(number()?), Val::U64(number()?)]),
            _ => return Ok(Known::Nothing),
        };
        Ok(Known::Value(value))
    }

    /// The answer of what has nothing behind it, where the type of the result has one.
    fn hollow(&self, store: &mut StoreContextMut<'_, HostState>, result: Option<&Type>) -> Result<Option<Val>> {
        Ok(Some(match result {
            Some(Type::List(_)) => Val::List(Vec::new()),
            Some(Type::Option(_)) => Val::Option(None),
            Some(Type::Result(result)) => match result.err() {
                None => Val::Result(Err(None)),
                Some(error) => Val::Result(Err(Some(Box::new(denied(&error).ok_or_else(|| self.nothing_behind())?)))),
            },
            Some(Type::Own(resource)) => Val::Resource(self.handle(store, *resource)?),
            _ => return Err(self.nothing_behind()),
        }))
    }

    fn handle(&self, store: &mut StoreContextMut<'_, HostState>, resource: ResourceType) -> Result<ResourceAny> {
        let types = 0..RESOURCES.len() as u32;
        let ty = types.into_iter().find(|ty| ResourceType::host_dynamic(*ty) == resource);
        let ty = ty.ok_or_else(|| self.nothing_behind())?;
        store.data_mut().wasi.hold()?;
        let stands_for = match &*self.interface {
            "wasi:cli/stdout" => STDOUT,
            "wasi:cli/stderr" => STDERR,
            _ => NOTHING,
        };
        ResourceDynamic::new_own(stands_for, ty).try_into_resource_any(store)
    }

    fn name(&self) -> String {
        format!("{}#{}", self.interface, self.function)
    }

    fn nothing_behind(&self) -> wasmtime::Error {
        wasmtime::format_err!("it called {}, and WASI has nothing behind it here", self.name())
    }
}

/// The value of an error type that says no.
fn denied(error: &Type) -> Option<Val> {
    // In filesystem, sockets and streams, in this order.
    const SAYS_NO: &[&str] = &["access", "access-denied", "closed"];
    SAYS_NO.iter().find_map(|no| match error {
        Type::Enum(ty) => ty.names().any(|name| name == *no).then(|| Val::Enum((*no).into())),
        Type::Variant(ty) => {
            ty.cases().any(|case| case.name == *no && case.ty.is_none()).then(|| Val::Variant((*no).into(), None))
        }
        _ => None,
    })
}

/// Takes the handles in a parameter out of the host's table, and tells what they stand for.
fn take_handles(store: &mut StoreContextMut<'_, HostState>, value: &Val, found: &mut Vec<u32>) -> Result<()> {
    match value {
        Val::Resource(resource) => {
            let handle = ResourceDynamic::try_from_resource_any(*resource, &mut *store)?;
            if handle.owned() {
                store.data_mut().wasi.release();
            }
            found.push(handle.rep());
            Ok(())
        }
        // Bytes have no handles in them, and there may be many.
        Val::List(values) if !matches!(values.first(), Some(Val::U8(_))) => {
            values.iter().try_for_each(|value| take_handles(store, value, found))
        }
        Val::Tuple(values) => values.iter().try_for_each(|value| take_handles(store, value, found)),
        Val::Record(fields) => fields.iter().try_for_each(|(_, value)| take_handles(store, value, found)),
        Val::Option(Some(value)) | Val::Variant(_, Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => {
            take_handles(store, value, found)
        }
        _ => Ok(()),
    }
}

fn datetime(seconds: u64, nanoseconds: u32) -> Val {
    Val::Record(vec![("seconds".into(), Val::U64(seconds)), ("nanoseconds".into(), Val::U32(nanoseconds))])
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| wasmtime::format_err!("the system gives no random numbers: {error}"))
}

fn number() -> Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
