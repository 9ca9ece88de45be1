//! The image of the sandboxes' own container: busybox, which waits.
//!
//! Owns its making, as `docker save` would write it: no registry is asked.

use eni_tests::programs::{run, sh};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Its name.
pub(crate) const NAME: &str = "eni.test/pause:1";

/// Writes the image's archive into `folder`. `mark` becomes a word of its process's command line, by which it is found.
pub(crate) fn archive(folder: &Path, mark: &str) -> PathBuf {
    let shown = folder.display();
    sh(&format!(
        "mkdir -p {shown}/rootfs/bin && cp \"$(command -v busybox)\" {shown}/rootfs/bin/busybox && \
         tar -C {shown}/rootfs -cf {shown}/layer.tar bin"
    ));
    let summed = run("sha256sum", &[&format!("{shown}/layer.tar")]).unwrap();
    let diff_id = summed.split(' ').next().unwrap();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    // A shell without exec keeps its words.
    let command = ["/bin/busybox", "sh", "-c", "/bin/busybox sleep 2000000000; exit", mark];
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    sh(&format!("tar -C {shown} -cf {shown}/image.tar manifest.json config.json layer.tar"));
    folder.join("image.tar")
}
