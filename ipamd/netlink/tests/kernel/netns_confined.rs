//! CAP_NET_ADMIN as the only capability, as ipamd runs.

use crate::bench::{Node, Space, spec};
use ipamd_core::host_net::eni::routes;
use ipamd_core::kernel::{
    ENI_RULE_PRIORITY, ENI_TABLE, FilterChain, Forward, HostAddressView, HostKernel, HostStep, MARK_MASK,
    Mark, NFT_TABLE, PODS_RULE_PRIORITY, PODS_TABLE, ReapLink, UnwireSpec,
};
use ipamd_netlink::host::Host;
use ipamd_netlink::lock::NetfilterLock;
use ipamd_netlink::sandbox::SandboxSocket;
use std::io::stdin;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

#[test]
fn the_whole_life_of_a_sandbox_needs_cap_net_admin_alone() {
    let (node, sandbox) = (Node::new(), Space::new());
    // As dockerd leaves it.
    node.space.sh(
        "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER",
    );
    let socket = sandbox.0.route_socket().unwrap();
    let output = node.space.0.run(|| {
        // This test program again, without the other capabilities; the sandbox's socket is its standard input.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "netns_confined::inside", "--ignored", "--nocapture"]);
        command.stdin(Stdio::from(socket)).output().unwrap()
    });
    let output = output.unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(node.space.ip("link").as_array().unwrap().len(), 1, "nothing is left");
}

fn an_eni_is_laid_and_taken_away(host: &mut Host) {
    let own = HostAddressView { ifindex: 1, address: "10.9.32.7/32".parse().unwrap() };
    let (priority, table) = (ENI_RULE_PRIORITY, ENI_TABLE + 2);
    let mark = Some(Mark { value: 2, mask: MARK_MASK });
    let [hop, default] = routes(2, "10.9.32.0/20".parse().unwrap(), 1);
    let lay = [
        HostStep::SetMtu { ifindex: 1, mtu: 9000 },
        HostStep::AddAddress(own),
        HostStep::AddEniRoute(hop),
        HostStep::AddEniRoute(default),
        HostStep::AddRule { priority, table, mark },
    ];
    assert_eq!(host.apply(&lay), []);
    assert_eq!(host.observe().unwrap().eni_routes.len(), 2);
    let take = [
        HostStep::DeleteRule { priority, table, mark },
        HostStep::DeleteEniRoute(hop),
        HostStep::DeleteEniRoute(default),
        HostStep::DeleteAddress(own),
    ];
    assert_eq!(host.apply(&take), []);
}

#[test]
#[ignore = "the other half of the test above, which runs it"]
fn inside() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert!(capabilities.ends_with("0000000000001000"), "{capabilities}");
    let _lock = NetfilterLock::acquire().unwrap();
    let mut host = Host::open(std::sync::Arc::default()).unwrap();
    let socket = stdin().as_fd().try_clone_to_owned().unwrap();
    let sandbox = SandboxSocket::check(socket, host.cookie()).unwrap();
    let steps = [
        HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
        HostStep::ReplaceNft { text: format!("table ip {NFT_TABLE} {{ }}\n") },
    ];
    assert_eq!(host.apply(&steps), []);
    let chain = FilterChain::DockerUser;
    assert_eq!(host.observe().unwrap().forward, Forward::Drops { chain, accepted: false });
    assert_eq!(host.apply(&[HostStep::AcceptForward(chain)]), []);
    assert_eq!(host.observe().unwrap().forward, Forward::Drops { chain, accepted: true });
    an_eni_is_laid_and_taken_away(&mut host);
    let spec = spec(1);
    host.wire(&spec, &sandbox).unwrap();
    assert!(host.observe().unwrap().nft.is_some());
    host.unwire(&UnwireSpec {
        host_name: spec.host_name.clone(),
        ifindex: spec.ifindex,
        addresses: vec![spec.address],
    })
    .unwrap();
    let link = ReapLink { ifindex: spec.ifindex, alias: spec.alias.clone(), addresses: vec![spec.address] };
    assert_eq!(host.reap(&[link]).gone, [spec.ifindex]);
}
