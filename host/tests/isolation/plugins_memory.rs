//! Plugins that take all memory there is, and all the compiler's time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use waymark_node::{
    admin::{
        NodeClient,
        client::{PolicySource, SetPolicy},
    },
    model::ServiceName,
    plugin::Grants,
};

use super::{
    Scale,
    arena::{Arena, BYSTANDER, Bounds, Verdict},
    support::Caller,
    table::Row,
};

/// How many services have the greedy policy.
const GREEDY: usize = 20;

/// What the node's plugins may hold, and an instance, in MiB.
const TOTAL: u64 = 256;
const ONE: u64 = 64;

/// Beside what plugins hold: builds in progress may take a quarter of it, or what one may take; and
/// connections.
const BESIDE: u64 = ONE + 32;

fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test").join(name).with_extension("wasm")
}

/// The bystander's policy is never the one that attacks.
fn config(policy: &str, more: &str) -> String {
    format!(
        "[plugins]\ntotal-memory-mib = {TOTAL}\nmemory-mib = {ONE}\nbuild-deadline-ms = 10000\n{more}\n\
         [policy]\nplugin = {policy:?}\n\
         [[service]]\nname = \"{BYSTANDER}\"\npolicy = \"round_robin\"\n"
    )
}

async fn api(arena: &Arena) -> Result<NodeClient, String> {
    NodeClient::connect(&format!("http://{}", arena.node.admin)).await.map_err(|error| error.to_string())
}

async fn metrics(arena: &Arena) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(arena.node.admin).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// One figure of the node's metrics.
async fn metric(arena: &Arena, name: &str) -> Result<u64, String> {
    let page = metrics(arena).await.map_err(|error| error.to_string())?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::trim));
    line.and_then(|value| value.parse::<f64>().ok()).map(|value| value as u64).ok_or(format!("no {name} in {page}"))
}

/// Services `NAME0`, `NAME1` and so on, of one instance each.
async fn register(arena: &Arena, name: &str, services: usize) {
    let address = arena.instances[0].address;
    let mut registry = Client::connect([&arena.node.registry], None).await.unwrap();
    let puts = (0..services).map(|n| {
        let value = format!(r#"{{"Addr":"{address}"}}"#);
        TxnOp::put(format!("{name}{n}/{address}"), value, Some(PutOptions::new()))
    });
    for batch in puts.collect::<Vec<_>>().chunks(100) {
        registry.txn(Txn::new().and_then(batch.to_vec())).await.unwrap();
    }
}

/// Calls each until it is answered, or `patience` has passed; how many were.
async fn call_each(arena: &Arena, name: &str, services: usize, patience: Duration) -> usize {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", arena.node.node)).unwrap();
    let channel = channel.connect().await.unwrap();
    let calls = (0..services).map(|n| {
        // A test that ends soon may keep its names.
        let service: &'static str = Box::leak(format!("{name}{n}").into_boxed_str());
        let mut caller = Caller::new(channel.clone(), Some(service));
        async move {
            let answered = async { while caller.unary("x").await.is_err() {} };
            timeout(patience, answered).await.is_ok()
        }
    });
    let answered: Vec<bool> = stream::iter(calls.collect::<Vec<_>>()).buffer_unordered(16).collect().await;
    answered.into_iter().filter(|answered| *answered).count()
}

/// Twenty services whose policy takes all that it is given, of eight memories: 512 MiB each where
/// nothing adds them up.
pub(crate) async fn greedy_plugins(scale: Scale) -> Result<Row, String> {
    hoarders(scale, "takes_all_memory").await
}

/// The same of tables.
pub(crate) async fn greedy_tables(scale: Scale) -> Result<Row, String> {
    hoarders(scale, "hoards_tables").await
}

async fn hoarders(scale: Scale, name: &str) -> Result<Row, String> {
    let toml = config(guest(name).to_str().unwrap(), "table-elements = 10000000");
    let arena = Arena::configured(&toml).await;
    register(&arena, "greedy", GREEDY).await;
    let attack = async |arena: &Arena| {
        let began = Instant::now();
        let answered = call_each(arena, "greedy", GREEDY, Duration::from_secs(60)).await;
        if answered < GREEDY {
            return Err(format!("{answered} of {GREEDY} services of a greedy policy were served"));
        }
        let (refused, held) = (
            metric(arena, "waymark_plugin_instances_refused_total").await?,
            metric(arena, "waymark_plugin_memory_bytes").await? >> 20,
        );
        if refused == 0 || held > TOTAL {
            return Err(format!("{refused} instances were refused, and {held} MiB are held"));
        }
        Ok(Verdict::after(format!("{refused} refused, {held} MiB held"), began))
    };
    arena.attacked(scale, Bounds::mib(TOTAL + BESIDE), attack).await
}

/// Names that nobody registered, where every service has a policy that takes all it is given.
pub(crate) async fn made_up_names_with_a_greedy_policy(scale: Scale) -> Result<Row, String> {
    let arena = Arena::configured(&config(guest("takes_all_memory").to_str().unwrap(), "")).await;
    let attack = async |arena: &Arena| {
        let began = Instant::now();
        // Sixteen at a time, so that the last ones are called twice as long after the first.
        let answered = call_each(arena, "made-up", 30, scale.length).await;
        let held = metric(arena, "waymark_plugin_instances").await?;
        // The key scheme has one or two.
        if held > 2 {
            return Err(format!("{held} instances are kept for services without endpoints"));
        }
        Ok(Verdict::after(format!("{answered} answered, {held} instances kept"), began))
    };
    arena.attacked(scale, Bounds::mib(ONE + BESIDE), attack).await
}

/// A component of 150 KB whose functions have 50,000 local variables each, and one that is within
/// all limits of a look, while others set policies.
pub(crate) async fn compile_bombs(scale: Scale) -> Result<Row, String> {
    let arena = Arena::configured(&config("round_robin", "compile-deadline-s = 5")).await;
    register(&arena, "other", 8).await;
    let attack = async |arena: &Arena| {
        let began = Instant::now();
        let set = async |service: &str, component: Vec<u8>| {
            let api = api(arena).await?;
            let name = ServiceName::new(service).unwrap();
            let set = SetPolicy {
                service: name,
                source: PolicySource::Component { bytes: component, origin: "bomb".into() },
                config: String::new(),
                by: "isolation".into(),
                discover: true,
                allow: Grants::NONE,
            };
            api.set_policy(set).await.map(drop).map_err(|error| error.to_string())
        };
        let bombs = async {
            for nth in 0..6u8 {
                let cheap = set("other0", bomb(3000, 50_000, 1, nth)).await.err().unwrap_or_default();
                if !cheap.contains("local variables") {
                    return Err(format!("a bomb was not refused by a look: {cheap:?}"));
                }
            }
            let slow = (0..3u8).map(|nth| set("other0", bomb(2, 30, 17_000, nth)));
            // Refused for its world, or given up: what counts is who else is served meanwhile.
            futures::future::join_all(slow).await;
            Ok(began.elapsed())
        };
        let others = async {
            let mut longest = Duration::ZERO;
            for nth in 1..8 {
                let began = Instant::now();
                let guest = fs::read(guest("counts_picks")).unwrap();
                let service = format!("other{nth}");
                // Where the machine has no time for it at all, the node says so.
                while let Err(error) = set(&service, guest.clone()).await {
                    if !error.contains("too busy") {
                        return Err(error);
                    }
                }
                longest = longest.max(began.elapsed());
            }
            Ok::<_, String>(longest)
        };
        let (bombs, others) = futures::future::join(bombs, others).await;
        let (bombs, others) = (bombs?, others?);
        Ok(Verdict::word(format!(
            "bombs over in {:.1} s, others set in {:.1} s",
            bombs.as_secs_f32(),
            others.as_secs_f32()
        )))
    };
    arena.attacked(scale, Bounds::mib(96), attack).await
}

/// So many functions, each with so many local variables and loops. `salt` makes it another one.
fn bomb(functions: u32, locals: u32, loops: u32, salt: u8) -> Vec<u8> {
    use wasm_encoder::{
        CodeSection, Component, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType, Module, ModuleSection,
        TypeSection, ValType,
    };
    let (mut types, mut declared, mut globals, mut code) =
        (TypeSection::new(), FunctionSection::new(), GlobalSection::new(), CodeSection::new());
    types.ty().function([], []);
    let global = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
    globals.global(global, &ConstExpr::i32_const(i32::from(salt)));
    for _ in 0..functions {
        declared.function(0);
        let mut function = Function::new([(locals, ValType::I64)]);
        let mut body = function.instructions();
        // Each block has to agree with the next over what the variables hold.
        for _ in 0..loops {
            let at = 0;
            body.local_get(at).i64_const(1).i64_add().local_set(at + 1);
            body.loop_(wasm_encoder::BlockType::Empty).local_get(at).i32_wrap_i64().br_if(0).end();
        }
        body.end();
        code.function(&function);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&globals).section(&code);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    component.finish()
}

/// As many services as a node balances, each with a policy that is asked for every request.
pub(crate) async fn ten_thousand_services(scale: Scale) -> Result<Row, String> {
    // One place is the bystander's.
    const SERVICES: usize = 9_999;
    let toml = format!(
        "[policy]\nplugin = \"least_request\"\n[[service]]\nname = \"{BYSTANDER}\"\npolicy = \"round_robin\"\n"
    );
    let arena = Arena::configured(&toml).await;
    register(&arena, "many", SERVICES).await;
    let attack = async |arena: &Arena| {
        let began = Instant::now();
        let answered = call_each(arena, "many", SERVICES, Duration::from_secs(60)).await;
        if answered < SERVICES {
            return Err(format!("{answered} of {SERVICES} services were served"));
        }
        let (instances, refused) = (
            metric(arena, "waymark_plugin_instances").await?,
            metric(arena, "waymark_plugin_instances_refused_total").await?,
        );
        if refused > 0 || instances < SERVICES as u64 {
            return Err(format!("{instances} instances, {refused} were refused"));
        }
        let mappings = fs::read_to_string(arena.node.proc("maps")).map_err(|error| error.to_string())?.lines().count();
        if mappings > 2 * SERVICES + 2_000 {
            return Err(format!("{mappings} mappings for {SERVICES} instances"));
        }
        Ok(Verdict::after(format!("{instances} instances, {mappings} mappings"), began))
    };
    arena.attacked(scale, Bounds::mib(3 << 10), attack).await
}
