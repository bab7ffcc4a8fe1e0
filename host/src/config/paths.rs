//! Relative paths in a configuration file: they are relative to its folder, wherever the program
//! was started. Those of flags and variables are relative to where it was.

use std::path::{Path, PathBuf};

use super::{
    PluginRef,
    file::{AdminSetting, EndpointTlsFile, FileConfig, PluginsFile, RegistryFile, TlsFile},
};
use crate::dataplane::AccessTarget;

/// All places of one table that hold a path.
type Places<'a> = Vec<&'a mut Option<PathBuf>>;

impl FileConfig {
    /// The same, with each relative path below this folder.
    pub(super) fn relative_to(mut self, folder: &Path) -> Self {
        if folder.as_os_str().is_empty() {
            return self;
        }
        let own = self.service.iter_mut().map(|service| &mut service.policy);
        for plugin in [&mut self.policy.plugin, &mut self.registry.key_scheme].into_iter().chain(own).flatten() {
            let Ok(named) = plugin.parse();
            if let PluginRef::File(path) = named {
                below(folder, &path, plugin);
            }
        }
        let mut places = vec![&mut self.listen_unix, &mut self.take_over];
        places.extend(self.tls.iter_mut().flat_map(TlsFile::places));
        places.extend(self.endpoints.tls.iter_mut().flat_map(EndpointTlsFile::places));
        places.extend(self.registry.places());
        places.extend(self.plugins.places());
        if let Some(AdminSetting::Table(admin)) = &mut self.admin {
            places.extend([&mut admin.unix, &mut admin.token_file]);
            places.extend(admin.tls.iter_mut().flat_map(TlsFile::places));
        }
        for service in &mut self.service {
            places.push(&mut service.service_config);
            places.extend(service.tls.iter_mut().flat_map(EndpointTlsFile::places));
        }
        for path in places.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        if let Some(to) = &mut self.access_log
            && let Ok(AccessTarget::File(path)) = to.parse()
        {
            below(folder, &path, to);
        }
        self
    }
}

/// Puts the path below the folder, where that is a text.
fn below(folder: &Path, path: &Path, text: &mut String) {
    if let Ok(joined) = folder.join(path).into_os_string().into_string() {
        *text = joined;
    }
}

impl TlsFile {
    fn places(&mut self) -> Places<'_> {
        let Self { cert_file, key_file, client_ca_file } = self;
        vec![cert_file, key_file, client_ca_file]
    }
}

impl EndpointTlsFile {
    fn places(&mut self) -> Places<'_> {
        let Self { enabled: _, ca_file, cert_file, key_file, server_name: _ } = self;
        vec![ca_file, cert_file, key_file]
    }
}

impl RegistryFile {
    fn places(&mut self) -> Places<'_> {
        let mut places = vec![&mut self.password_file, &mut self.ca_file, &mut self.cert_file, &mut self.key_file];
        // A word, and no path.
        if self.state_dir.as_ref().is_some_and(|path| path.as_os_str() != "none") {
            places.push(&mut self.state_dir);
        }
        places
    }
}

impl PluginsFile {
    fn places(&mut self) -> Places<'_> {
        vec![&mut self.cache_dir]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::config::parse_file;

    /// Every setting that holds a path, each with a name of its own.
    const ALL: &str = r#"
        listen-unix = "p1"
        take-over = "p2"
        access-log = "p3"
        admin = { unix = "p4", token-file = "p5", tls = { cert-file = "p6", key-file = "p7", client-ca-file = "p8" } }
        tls = { cert-file = "p9", key-file = "p10", client-ca-file = "p11" }
        endpoints = { tls = { ca-file = "p12", cert-file = "p13", key-file = "p14" } }
        policy = { plugin = "./p15.wasm" }
        plugins = { cache-dir = "p16" }
        [registry]
        password-file = "p17"
        ca-file = "p18"
        cert-file = "p19"
        key-file = "p20"
        state-dir = "p21"
        key-scheme = "sub/p22"
        [[service]]
        name = "a"
        service-config = "p23"
        policy = "p24.wasm"
        tls = { ca-file = "p25", cert-file = "p26", key-file = "p27" }
    "#;

    #[test]
    fn a_relative_path_is_relative_to_the_files_folder() {
        let all = format!("{:?}", parse_file("/etc/waymark/node.toml".as_ref(), ALL).unwrap());
        for n in 1..=27 {
            let of = |before: &str| ["\"", "."].iter().any(|after| all.contains(&format!("{before}p{n}{after}")));
            let below = ["", "./", "sub/"].iter().any(|between| of(&format!("\"/etc/waymark/{between}")));
            assert!(below, "p{n}: {all}");
        }
        let here = format!("{:?}", parse_file("node.toml".as_ref(), ALL).unwrap());
        assert!(here.contains("\"p1\"") && here.contains("\"./p15.wasm\""), "{here}");
    }

    #[test]
    fn what_is_no_relative_path_stays_as_it_is() {
        let text = r#"
            listen-unix = "/run/w.sock"
            access-log = "stdout"
            policy = { plugin = "round_robin" }
            registry = { state-dir = "none", key-scheme = "etcd_naming" }
        "#;
        let file = parse_file("/etc/waymark/node.toml".as_ref(), text).unwrap();
        assert_eq!(file.listen_unix.unwrap().to_str(), Some("/run/w.sock"));
        assert_eq!(file.access_log.as_deref(), Some("stdout"));
        assert_eq!(file.policy.plugin.as_deref(), Some("round_robin"));
        assert_eq!(file.registry.state_dir.unwrap().to_str(), Some("none"));
        assert_eq!(file.registry.key_scheme.as_deref(), Some("etcd_naming"));
    }

    #[test]
    fn no_setting_that_holds_a_path_is_forgotten() {
        let declared = include_str!("file.rs").matches("Option<PathBuf>").count();
        // Each once here, however often its table occurs; the three that are texts do not count.
        assert_eq!(declared, 2 + 2 + 3 + 3 + 5 + 1 + 1, "a new setting that holds a path has to be in this file");
    }
}
