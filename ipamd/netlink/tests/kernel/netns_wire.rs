//! Wiring: the whole pair, and every way in which something is in its way.

use crate::bench::{Node, PRIMARY, Space, spec};
use eni_proto::ids::NetnsCookie;
use ipamd_core::kernel::{
    DYING_GROUP, HostKernel, HostStep, POD_GROUP, POD_INET, PODS_RULE_PRIORITY, PODS_TABLE, RouteAction,
    UnwireSpec, WireError, WireSpec, WireStep,
};
use ipamd_netlink::sandbox::{SandboxSocket, SandboxSocketError};
use std::fs::File;
use std::os::unix::net::UnixStream;

fn wire(node: &Node, sandbox: &Space, spec: &WireSpec) -> Result<(), WireError> {
    let socket = sandbox.socket(node.cookie);
    node.with_host(|host| host.wire(spec, &socket))
}

#[test]
fn a_wired_sandbox_is_whole_on_both_sides() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    let socket = sandbox.socket(node.cookie);
    let sent = node.with_host(|host| {
        node.sent();
        host.wire(&spec, &socket).unwrap();
        node.sent()
    });
    assert_eq!(sent, (11, 4), "messages, sends");

    let inside = &sandbox.ip("-d link show eth0")[0];
    assert_eq!(inside["ifindex"], spec.ifindex);
    assert_eq!(inside["address"], spec.sandbox_mac.to_string());
    assert_eq!((&inside["mtu"], &inside["txqlen"]), (&1400.into(), &77.into()));
    assert_eq!((&inside["num_tx_queues"], &inside["num_rx_queues"]), (&1.into(), &1.into()));
    assert_eq!(inside["inet6_addr_gen_mode"], "none");
    assert_eq!(inside["operstate"], "UP");
    let addresses = &sandbox.ip("addr show dev eth0")[0]["addr_info"];
    assert_eq!(addresses.as_array().unwrap().len(), 1, "no link-local address: {addresses}");
    assert_eq!((&addresses[0]["local"], &addresses[0]["prefixlen"]), (&"10.9.1.1".into(), &32.into()));
    let routes = sandbox.ip("route show table main");
    assert_eq!((&routes[0]["dst"], &routes[0]["gateway"]), (&"default".into(), &"169.254.1.1".into()));
    assert_eq!((&routes[1]["dst"], &routes[1]["scope"]), (&"169.254.1.1".into(), &"link".into()));
    assert_eq!(routes.as_array().unwrap().len(), 2);
    let neighbours = sandbox.ip("neigh show dev eth0");
    assert_eq!(neighbours[0]["lladdr"], spec.host_mac.to_string());
    assert_eq!(
        (&neighbours[0]["dst"], &neighbours[0]["state"][0]),
        (&"169.254.1.1".into(), &"PERMANENT".into())
    );

    let name = spec.host_name.as_str();
    let outside = &node.space.ip(&format!("-d link show {name}"))[0];
    assert_eq!(
        (&outside["ifindex"], &outside["address"]),
        (&spec.ifindex.into(), &"02:01:00:00:00:01".into())
    );
    assert_eq!((&outside["mtu"], &outside["txqlen"]), (&1400.into(), &77.into()));
    assert_eq!((&outside["num_tx_queues"], &outside["num_rx_queues"]), (&1.into(), &1.into()));
    assert_eq!(outside["ifalias"], spec.alias);
    assert_eq!(outside["group"], (POD_GROUP + 1).to_string());
    assert_eq!(outside["inet6_addr_gen_mode"], "none");
    let addresses = &node.space.ip(&format!("addr show dev {name}"))[0]["addr_info"];
    assert_eq!(addresses.as_array().unwrap().len(), 0, "no link-local address: {addresses}");
    for (setting, value) in [("forwarding", "1"), ("rp_filter", "1"), ("send_redirects", "0")] {
        let told = node.space.sh(&format!("sysctl -n net.ipv4.conf.{name}.{setting}"));
        assert_eq!(told.trim(), value, "{setting}");
    }
    let route = &node.space.ip(&format!("route show table {PODS_TABLE}"))[0];
    assert_eq!(
        (&route["dst"], &route["dev"], &route["scope"]),
        (&"10.9.1.1".into(), &name.into(), &"link".into())
    );
    assert_eq!((&route["prefsrc"], &route["protocol"]), (&PRIMARY.to_string().into(), &"236".into()));
    let neighbour = &node.space.ip(&format!("neigh show dev {name}"))[0];
    assert_eq!((&neighbour["dst"], &neighbour["lladdr"]), (&"10.9.1.1".into(), &"02:02:00:00:00:01".into()));

    let rule = HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None };
    assert_eq!(node.with_host(|host| host.apply(&[rule])), []);
    node.space.sh("ping -c 3 -i 0.2 -W 1 10.9.1.1");
    sandbox.sh("ip link set lo up; ping -c 3 -i 0.2 -W 1 10.9.0.1");
}

#[test]
fn the_view_tells_what_was_wired() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    wire(&node, &sandbox, &spec).unwrap();
    let view = node.with_host(|host| host.observe().unwrap());
    let link = view.links.iter().find(|l| l.ifindex == spec.ifindex).unwrap();
    assert_eq!((link.group, link.up, link.mtu, link.kind.as_str()), (spec.group, true, 1400, "veth"));
    assert_eq!(
        (link.alias.as_str(), link.mac, link.inet),
        (spec.alias.as_str(), Some(spec.host_mac), POD_INET)
    );
    assert_eq!(view.links.iter().find(|l| l.ifindex == 1).unwrap().mac, None, "loopback has no MAC");
    assert_eq!(view.pods_routes.len(), 1);
    assert_eq!(view.pods_routes[0].action, RouteAction::Device { ifindex: spec.ifindex });
    assert_eq!(view.pods_routes[0].prefsrc, Some(PRIMARY));
    assert_eq!(view.neighbours.len(), 1);
    assert!(view.neighbours[0].permanent && view.neighbours[0].mac == spec.sandbox_mac);
}

#[test]
fn an_mtu_below_ipv6s_least_is_fine() {
    let (node, sandbox) = (Node::new(), Space::new());
    wire(&node, &sandbox, &WireSpec { mtu: 1000, ..spec(1) }).unwrap();
    assert_eq!(sandbox.ip("link show eth0")[0]["mtu"], 1000);
}

#[test]
fn one_sandbox_takes_two_interfaces() {
    let (node, sandbox) = (Node::new(), Space::new());
    let second = WireSpec { sandbox_name: "net1".parse().unwrap(), ..spec(2) };
    wire(&node, &sandbox, &spec(1)).unwrap();
    wire(&node, &sandbox, &second).unwrap();
    let defaults = sandbox.ip("route show default");
    assert_eq!(
        (&defaults[0]["dev"], &defaults[1]["dev"]),
        (&"eth0".into(), &"net1".into()),
        "the first stays first"
    );
}

#[test]
fn a_refused_prefsrc_is_left_out() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = WireSpec { prefsrc: Some("10.9.0.99".parse().unwrap()), ..spec(1) };
    let socket = sandbox.socket(node.cookie);
    let sent = node.with_host(|host| {
        node.sent();
        host.wire(&spec, &socket).unwrap();
        node.sent()
    });
    assert_eq!(sent, (12, 5), "messages, sends");
    let view = node.with_host(|host| host.observe().unwrap());
    assert_eq!((view.pods_routes.len(), view.pods_routes[0].prefsrc), (1, None));
}

/// Everything about a link that can be shown, but for counters.
fn portrait(space: &Space, name: &str) -> String {
    let lines = [
        format!("ip -d link show {name}"),
        format!("ip -d addr show {name}"),
        "ip route show table all".into(),
    ];
    lines.iter().map(|line| space.sh(line)).collect()
}

#[test]
fn a_taken_ifindex_on_the_host_leaves_its_holder_alone() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    let make = format!(
        "ip link add holder index {} type veth peer name p; ip addr add 10.7.0.1/24 dev holder; ip link set holder up alias mine group 42",
        spec.ifindex
    );
    node.space.sh(&make);
    let before = (portrait(&node.space, "holder"), sandbox.sh("ip -d link"));
    assert_eq!(wire(&node, &sandbox, &spec), Err(WireError::IfindexTaken { ifindex: spec.ifindex }));
    assert_eq!((portrait(&node.space, "holder"), sandbox.sh("ip -d link")), before);
}

#[test]
fn a_taken_ifindex_in_the_sandbox_leaves_its_holder_alone() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    sandbox.sh(&format!(
        "ip link add holder index {} type veth peer name p; ip link set holder up",
        spec.ifindex
    ));
    let before = (portrait(&sandbox, "holder"), node.space.sh("ip -d link"));
    assert_eq!(wire(&node, &sandbox, &spec), Err(WireError::IfindexTaken { ifindex: spec.ifindex }));
    assert_eq!((portrait(&sandbox, "holder"), node.space.sh("ip -d link")), before);
}

#[test]
fn taken_names_are_told_apart() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    let name = spec.host_name.as_str();
    node.space.sh(&format!("ip link add {name} index 77 type veth peer name p; ip link set {name} group 5"));
    let before = portrait(&node.space, name);
    let taken = WireError::HostNameTaken { name: name.to_owned(), ifindex: 77, group: 5 };
    assert_eq!(wire(&node, &sandbox, &spec), Err(taken));
    assert_eq!(portrait(&node.space, name), before);
    // An alternative name is taken, too.
    node.space.sh(&format!("ip link set {name} name other; ip link property add dev other altname {name}"));
    assert!(matches!(wire(&node, &sandbox, &spec), Err(WireError::HostNameTaken { ifindex: 77, .. })));
    node.space.sh("ip link del other");

    sandbox.sh("ip link add eth0 type veth peer name p");
    let before = portrait(&sandbox, "eth0");
    assert_eq!(wire(&node, &sandbox, &spec), Err(WireError::IfnameTaken { name: "eth0".into() }));
    assert_eq!(portrait(&sandbox, "eth0"), before);
    assert!(!node.space.try_sh(&format!("ip link show {name}")).status.success(), "nothing was made");
}

#[test]
fn a_failing_message_in_the_sandboxs_batch_is_named() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    // Another route to the next hop comes first: the kernel takes no gateway that it cannot reach.
    sandbox.sh("ip route add prohibit 169.254.1.1/32 scope link");
    let refused = wire(&node, &sandbox, &spec).unwrap_err();
    let WireError::Refused { step, errno, text, made } = refused else { panic!("{refused:?}") };
    assert_eq!((step, made), (WireStep::SandboxBatch, true));
    assert!(errno > 0 && text.starts_with("laying the sandbox's default route: E"), "{errno} {text}");
    let view = node.with_host(|host| host.observe().unwrap());
    let link = view.links.iter().find(|l| l.ifindex == spec.ifindex).expect("the pair is left for the owner");
    assert_eq!((link.alias.as_str(), view.pods_routes.len()), ("", 0), "not proven whole");
}

#[test]
fn a_failing_message_in_the_hosts_batch_is_named() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = WireSpec { alias: "x".repeat(300), ..spec(1) };
    let refused = wire(&node, &sandbox, &spec).unwrap_err();
    let WireError::Refused { step: WireStep::HostBatch, text, made: true, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert!(text.starts_with("giving the host end its alias: "), "{text}");
}

#[test]
fn what_is_in_the_way_is_deleted_first_if_it_is_ours() {
    let (node, sandbox) = (Node::new(), Space::new());
    wire(&node, &sandbox, &spec(1)).unwrap();
    let second =
        WireSpec { delete_first: vec![spec(1).ifindex, 4321], host_name: spec(1).host_name, ..spec(2) };
    wire(&node, &sandbox, &second).unwrap();
    assert_eq!(sandbox.ip("link show eth0")[0]["ifindex"], second.ifindex);

    node.space.sh("ip link add foreign index 4321 type veth peer name p");
    let before = node.space.sh("ip -d link show foreign");
    let third = WireSpec { delete_first: vec![4321], ..spec(3) };
    wire(&node, &Space::new(), &third).expect("a number that is somebody else's is in nobody's way");
    assert_eq!(node.space.sh("ip -d link show foreign"), before);
}

#[test]
fn taking_off_removes_the_route_and_keeps_the_link() {
    let (node, sandbox) = (Node::new(), Space::new());
    let spec = spec(1);
    wire(&node, &sandbox, &spec).unwrap();
    let off = UnwireSpec {
        host_name: spec.host_name.clone(),
        ifindex: spec.ifindex,
        addresses: vec![spec.address],
    };
    let sent = node.with_host(|host| {
        let base = format!("unreachable {} table {PODS_TABLE} metric 4096", spec.address);
        node.space.sh(&format!("ip route add {base}"));
        node.sent();
        host.unwire(&off).unwrap();
        let sent = node.sent();
        host.unwire(&off).unwrap();
        host.unwire(&UnwireSpec {
            host_name: "eni00000000999".parse().unwrap(),
            ifindex: 999,
            addresses: vec![spec.address],
        })
        .unwrap();
        sent
    });
    assert_eq!(sent, (2, 1), "messages, sends");
    let view = node.with_host(|host| host.observe().unwrap());
    assert_eq!(view.pods_routes.len(), 1, "the base route stays");
    assert_eq!(view.pods_routes[0].action, RouteAction::Unreachable);
    assert_eq!(view.links.iter().find(|l| l.ifindex == spec.ifindex).unwrap().group, DYING_GROUP);
    sandbox.sh("ip link show eth0");
}

#[test]
fn taking_off_leaves_another_links_route() {
    let (node, one, two) = (Node::new(), Space::new(), Space::new());
    wire(&node, &one, &spec(1)).unwrap();
    wire(&node, &two, &WireSpec { address: spec(1).address, ..spec(2) }).unwrap();
    let off = UnwireSpec {
        host_name: spec(1).host_name.clone(),
        ifindex: spec(1).ifindex,
        addresses: vec![spec(1).address],
    };
    let view = node.with_host(|host| {
        host.unwire(&off).unwrap();
        host.observe().unwrap()
    });
    assert_eq!(view.pods_routes.len(), 1);
    assert_eq!(view.pods_routes[0].action, RouteAction::Device { ifindex: spec(2).ifindex });
}

#[test]
fn forged_answers_in_a_sandboxs_socket_are_not_believed() {
    use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, getsockname, sendto};
    use std::os::fd::AsRawFd;
    let (node, sandbox) = (Node::new(), Space::new());
    let passed = sandbox.0.route_socket().unwrap();
    bind(passed.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    let number = getsockname::<NetlinkAddr>(passed.as_raw_fd()).unwrap().pid();
    // Whoever has CAP_NET_ADMIN in the sandbox may send to it: here refusals of the first hundred messages.
    let forger = sandbox.0.route_socket().unwrap();
    for sequence in 0u32..100 {
        let header = [36u32.to_ne_bytes(), [2, 0, 0, 0], sequence.to_ne_bytes(), [0; 4]].concat();
        let refusal = [header, (-libc::EPERM).to_ne_bytes().to_vec(), vec![0; 16]].concat();
        sendto(forger.as_raw_fd(), &refusal, &NetlinkAddr::new(number, 0), MsgFlags::empty()).unwrap();
    }
    let socket = SandboxSocket::check(passed, node.cookie).unwrap();
    assert_eq!(node.with_host(|host| host.wire(&spec(1), &socket)), Ok(()));
    sandbox.sh("ip addr show dev eth0 | grep -q 10.9.1.1/32");
}

#[test]
fn only_a_sandboxs_route_socket_is_taken() {
    let (node, sandbox) = (Node::new(), Space::new());
    let host = NetnsCookie(node.cookie.0);
    let check = |fd| SandboxSocket::check(fd, host).map(|s| s.cookie());
    assert!(matches!(check(File::open("/dev/null").unwrap().into()), Err(SandboxSocketError::OtherKind)));
    assert!(matches!(check(UnixStream::pair().unwrap().0.into()), Err(SandboxSocketError::OtherKind)));
    assert!(matches!(check(sandbox.0.descriptor().unwrap()), Err(SandboxSocketError::OtherKind)));
    assert!(matches!(check(node.space.0.route_socket().unwrap()), Err(SandboxSocketError::OfTheHost)));
    let cookie = check(sandbox.0.route_socket().unwrap()).unwrap();
    assert_ne!(cookie, host);
    assert_eq!(cookie, sandbox.0.run(|| ipamd_netlink::sandbox::own_cookie().unwrap()).unwrap());
}
