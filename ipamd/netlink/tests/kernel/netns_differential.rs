//! The fake against the running kernel: the same calls give the same answers and the same view.

use crate::bench::{Node, PRIMARY, Space, spec};
use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::host_net::eni::routes;
use ipamd_core::kernel::{
    BASE_ROUTE_METRIC, DYING_GROUP, ENI_GROUP, ENI_INET, ENI_RULE_PRIORITY, ENI_TABLE, EniRouteView,
    FilterChain, Forward, HostAddressView, HostKernel, HostStep, HostView, InetSettings, LinkView, Mark,
    NeighbourView, POD_GROUP, POD_INET, PODS_RULE_PRIORITY, PODS_TABLE, PROTOCOL, ReapLink, RouteAction,
    RouteView, UnwireSpec, WireError, WireSpec,
};
use ipamd_netlink::fake::FakeKernel;
use ipamd_netlink::host::Host;
use ipamd_netlink::sandbox::SandboxSocket;
use std::net::Ipv4Addr;

/// Both kernels, with a sandbox that each of them has.
pub(crate) struct Pair<'a> {
    pub(crate) host: &'a mut Host,
    pub(crate) node: &'a Space,
    pub(crate) fake: FakeKernel,
    pub(crate) sandboxes: Vec<(SandboxSocket, NetnsCookie)>,
}

impl Pair<'_> {
    pub(crate) fn wire(&mut self, spec: &WireSpec, sandbox: usize) -> Result<(), WireError> {
        let (socket, cookie) = &self.sandboxes[sandbox];
        let (real, fake) = (self.host.wire(spec, socket), self.fake.wire(spec, cookie));
        assert_eq!(without_text(&real), without_text(&fake), "{real:?} {fake:?}");
        self.same_view();
        real
    }

    pub(crate) fn unwire(&mut self, spec: &UnwireSpec) {
        assert_eq!(self.host.unwire(spec).is_ok(), self.fake.unwire(spec).is_ok());
        self.same_view();
    }

    pub(crate) fn reap(&mut self, links: &[ReapLink]) {
        let (mut real, fake) = (self.host.reap(links), self.fake.reap(links));
        real.gone.sort_unstable();
        assert_eq!((&real.gone, &real.kept), (&fake.gone, &fake.kept));
        self.same_view();
    }

    /// Somebody else's command on the host.
    pub(crate) fn host_sh(&self, line: &str) {
        self.node.sh(line);
    }

    pub(crate) fn apply(&mut self, step: HostStep) {
        // The kernel adds words of its own after errno's name.
        let told = |kernel: Vec<ipamd_core::kernel::HostStepError>| {
            let name = |cause: &str| cause.split(' ').next().unwrap_or_default().to_owned();
            kernel.iter().map(|error| (error.step.clone(), name(&error.cause))).collect::<Vec<_>>()
        };
        let step = [step];
        assert_eq!(told(self.host.apply(&step)), told(self.fake.apply(&step)), "{step:?}");
        self.same_view();
    }

    pub(crate) fn same_view(&mut self) {
        let (real, fake) = (self.host.observe().unwrap(), self.fake.observe().unwrap());
        assert_eq!(normal(real), normal(fake));
    }
}

fn without_text(result: &Result<(), WireError>) -> Result<(), WireError> {
    result.clone().map_err(|error| match error {
        WireError::Refused { step, errno, made, .. } => {
            WireError::Refused { step, errno, text: String::new(), made }
        }
        other => other,
    })
}

/// Order means nothing; loopback's settings are the machine's.
fn normal(mut view: HostView) -> HostView {
    view.links.sort_by_key(|link| link.ifindex);
    for link in view.links.iter_mut().filter(|link| link.ifindex == 1) {
        link.inet = InetSettings::default();
    }
    view.addresses.sort();
    view.pods_routes.sort();
    view.eni_routes.sort();
    view.rules.sort();
    view.neighbours.sort();
    // What the machine has of these is not the calls' doing.
    (view.globals, view.others) = (None, Vec::new());
    view.main_routes.clear();
    view
}

fn foreign(name: &str, ifindex: u32, mac: MacAddr) -> LinkView {
    LinkView {
        ifindex,
        name: name.into(),
        mac: Some(mac),
        group: 0,
        alias: String::new(),
        up: true,
        mtu: 1500,
        kind: "veth".into(),
        inet: InetSettings { forwarding: false, rp_filter: 0, send_redirects: true },
    }
}

/// Both with loopback, the primary address and two foreign links that are up: `ens5` (30) and `other` (40).
pub(crate) fn with_pair(test: impl FnOnce(&mut Pair<'_>, &[Space]) + Send) {
    let node = Node::new();
    let mut fake = FakeKernel::new();
    let primary = format!("{PRIMARY}/32").parse().unwrap();
    fake.add_host_address(1, primary);
    for (name, ifindex) in [("ens5", 30), ("other", 40)] {
        let ends = [(name.to_owned(), ifindex), (format!("{name}-p"), ifindex + 1)];
        node.space.sh(&format!(
            "ip link add {} index {} type veth peer name {} index {}",
            ends[0].0, ends[0].1, ends[1].0, ends[1].1
        ));
        for (name, ifindex) in ends {
            let mac = MacAddr([2, 9, 0, 0, 0, ifindex as u8]);
            node.space.sh(&format!("ip link set {name} address {mac} up"));
            fake.add_link(foreign(&name, ifindex, mac));
        }
    }
    node.space.sh(
        "for s in all default ens5 other ens5-p other-p; do sysctl -qw net.ipv4.conf.$s.rp_filter=0; done",
    );
    let spaces = [Space::new(), Space::new(), Space::new()];
    let sandboxes: Vec<_> = spaces.iter().map(|space| space.socket(node.cookie)).collect();
    let sandboxes: Vec<_> = sandboxes.into_iter().map(|socket| (socket.cookie(), socket)).collect();
    let sandboxes = sandboxes.into_iter().map(|(cookie, socket)| (socket, cookie)).collect::<Vec<_>>();
    for (_, cookie) in &sandboxes {
        fake.add_sandbox(*cookie);
        fake.add_sandbox_link(*cookie, 1, "lo");
    }
    node.with_host(|host| {
        let mut pair = Pair { host, node: &node.space, fake, sandboxes };
        pair.same_view();
        test(&mut pair, &spaces);
    });
}

pub(crate) fn off(spec: &WireSpec) -> UnwireSpec {
    UnwireSpec { host_name: spec.host_name.clone(), ifindex: spec.ifindex, addresses: vec![spec.address] }
}

fn of(spec: &WireSpec) -> ReapLink {
    ReapLink { ifindex: spec.ifindex, alias: spec.alias.clone(), addresses: vec![spec.address] }
}

fn base(n: u8) -> RouteView {
    RouteView {
        destination: format!("10.9.1.{n}/32").parse().unwrap(),
        metric: BASE_ROUTE_METRIC,
        action: RouteAction::Unreachable,
        prefsrc: None,
        protocol: PROTOCOL,
    }
}

#[test]
fn lives_of_sandboxes_are_the_same() {
    with_pair(|pair, spaces| {
        for n in 1..=4 {
            pair.apply(HostStep::AddRoute(base(n)));
        }
        pair.wire(&spec(1), 0).unwrap();
        pair.wire(&spec(2), 1).unwrap();
        // What is in the way: a name inside, a name outside, an index outside and inside.
        pair.wire(&spec(3), 0).unwrap_err();
        pair.wire(&WireSpec { host_name: "ens5".parse().unwrap(), ..spec(3) }, 2).unwrap_err();
        pair.wire(&WireSpec { host_name: spec(1).host_name, ..spec(1) }, 0).unwrap_err();
        pair.wire(&WireSpec { ifindex: 30, ..spec(3) }, 2).unwrap_err();
        pair.wire(&WireSpec { ifindex: 1, ..spec(3) }, 2).unwrap_err();
        spaces[2].sh("ip link add holder index 500 type veth peer name p index 501");
        let cookie = pair.sandboxes[2].1;
        pair.fake.add_sandbox_link(cookie, 500, "holder");
        pair.fake.add_sandbox_link(cookie, 501, "p");
        pair.wire(&WireSpec { ifindex: 500, ..spec(3) }, 2).unwrap_err();
        pair.wire(
            &WireSpec {
                sandbox_name: "holder".parse().unwrap(),
                host_name: "ens5".parse().unwrap(),
                ..spec(3)
            },
            2,
        )
        .unwrap_err();
        pair.wire(
            &WireSpec { delete_first: vec![40], prefsrc: Some(Ipv4Addr::new(10, 9, 9, 9)), ..spec(3) },
            2,
        )
        .unwrap();
        // Off, off again, and another of the same name in the same sandbox.
        pair.unwire(&off(&spec(1)));
        pair.unwire(&off(&spec(1)));
        pair.unwire(&UnwireSpec {
            host_name: "eni00000000999".parse().unwrap(),
            ifindex: 9999,
            addresses: vec![spec(2).address],
        });
        pair.wire(&WireSpec { delete_first: vec![spec(1).ifindex], ..spec(4) }, 0).unwrap();
        // Reaped: gone already, another alias, alone, together.
        pair.reap(&[of(&spec(1))]);
        pair.reap(&[ReapLink { alias: "eni1 f other eth0 1 net".into(), ..of(&spec(4)) }]);
        pair.reap(&[ReapLink { ifindex: 30, ..of(&spec(4)) }]);
        pair.unwire(&off(&spec(4)));
        pair.reap(&[of(&spec(4))]);
        pair.unwire(&off(&spec(2)));
        pair.reap(&[of(&spec(2)), of(&spec(3)), of(&spec(1))]);
    });
}

#[test]
fn a_foreign_index_taken_on_both_sides_and_a_dying_sandbox_are_the_same() {
    with_pair(|pair, spaces| {
        pair.apply(HostStep::AddRoute(base(1)));
        pair.wire(&spec(1), 0).unwrap();
        pair.wire(&spec(2), 1).unwrap();
        pair.wire(&WireSpec { host_name: "enix".parse().unwrap(), ..spec(1) }, 2).unwrap_err();
        // The kernel takes a sandbox's links with it, once nobody holds its socket.
        spaces[0].sh("ip link del eth0");
        let cookie = pair.sandboxes[0].1;
        pair.fake.kill_sandbox(cookie);
        pair.same_view();
        pair.unwire(&off(&spec(1)));
        pair.reap(&[of(&spec(1)), of(&spec(2))]);
    });
}

#[test]
fn steps_for_an_eni_are_the_same() {
    with_pair(|pair, _| {
        pair.wire(&spec(1), 0).unwrap();
        let [hop, default] = routes(2, "10.9.32.0/20".parse().unwrap(), 30);
        let other = |route: EniRouteView| EniRouteView { ifindex: 40, ..route };
        let own = |ifindex, address: &str| HostAddressView { ifindex, address: address.parse().unwrap() };
        let mark = |value, mask| Some(Mark { value, mask });
        let (priority, table) = (ENI_RULE_PRIORITY, ENI_TABLE + 2);
        let steps = [
            HostStep::AddAddress(own(30, "10.9.32.7/32")),
            HostStep::AddAddress(own(30, "10.9.32.7/32")),
            HostStep::AddAddress(own(4000, "10.9.32.8/32")),
            // Without its next hop's route, and with it; replaced by another link's; by links that are not there.
            HostStep::AddEniRoute(default),
            HostStep::AddEniRoute(hop),
            HostStep::AddEniRoute(default),
            HostStep::AddEniRoute(default),
            HostStep::AddEniRoute(other(default)),
            HostStep::AddEniRoute(other(hop)),
            HostStep::AddEniRoute(other(default)),
            HostStep::AddEniRoute(EniRouteView { table: ENI_TABLE + 3, ..hop }),
            HostStep::AddEniRoute(EniRouteView { ifindex: 4000, ..hop }),
            HostStep::AddEniRoute(EniRouteView { table: 77, ..hop }),
            HostStep::DeleteEniRoute(EniRouteView { table: 77, ..hop }),
            HostStep::DeleteEniRoute(default),
            HostStep::DeleteEniRoute(other(default)),
            HostStep::DeleteEniRoute(other(default)),
            HostStep::DeleteEniRoute(EniRouteView { table: ENI_TABLE + 9, ..hop }),
            HostStep::AddRule { priority, table, mark: mark(2, 0x7f) },
            HostStep::AddRule { priority, table, mark: mark(2, 0x7f) },
            HostStep::AddRule { priority, table, mark: mark(2, 0xff) },
            HostStep::AddRule { priority, table, mark: None },
            HostStep::DeleteRule { priority, table, mark: mark(3, 0x7f) },
            HostStep::DeleteRule { priority, table, mark: mark(2, 0xff) },
            HostStep::DeleteRule { priority, table, mark: None },
            HostStep::DeleteRule { priority, table, mark: mark(2, 0x7f) },
            HostStep::DeleteRule { priority, table, mark: None },
            HostStep::SetMtu { ifindex: 30, mtu: 1400 },
            HostStep::SetMtu { ifindex: 4000, mtu: 1400 },
            HostStep::AddAddress(own(30, "10.9.32.9/32")),
            HostStep::DeleteAddress(own(30, "10.9.32.7/32")),
            HostStep::DeleteAddress(own(30, "10.9.32.7/32")),
            // The last one takes the link's routes along.
            HostStep::DeleteAddress(own(30, "10.9.32.9/32")),
            HostStep::DeleteAddress(own(4000, "10.9.32.7/32")),
            HostStep::AddEniRoute(hop),
        ];
        for step in steps {
            pair.apply(step);
        }
        // A link that goes takes its routes along, and its other end.
        pair.host_sh("ip link del ens5");
        pair.fake.delete_link(30);
        pair.fake.delete_link(31);
        pair.same_view();
    });
}

#[test]
fn the_filter_table_is_the_same() {
    with_pair(|pair, _| {
        let (forward, docker) = (FilterChain::Forward, FilterChain::DockerUser);
        pair.apply(HostStep::AcceptForward(docker));
        pair.host_sh("iptables-nft -P FORWARD DROP");
        pair.fake.set_forward(Forward::Drops { chain: forward, accepted: false });
        pair.apply(HostStep::AcceptForward(docker));
        pair.apply(HostStep::AcceptForward(forward));
        pair.apply(HostStep::AcceptForward(forward));
        pair.host_sh("iptables-nft -F FORWARD");
        pair.fake.set_forward(Forward::Drops { chain: forward, accepted: false });
        pair.same_view();
        pair.host_sh("iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER");
        pair.fake.set_forward(Forward::Drops { chain: docker, accepted: false });
        pair.apply(HostStep::AcceptForward(docker));
        pair.host_sh("iptables-nft -P FORWARD ACCEPT");
        pair.fake.set_forward(Forward::Open);
        pair.same_view();
    });
}

#[test]
fn steps_on_the_host_are_the_same() {
    with_pair(|pair, _| {
        pair.wire(&spec(1), 0).unwrap();
        let wide = RouteView { destination: "10.9.2.0/28".parse().unwrap(), ..base(0) };
        let by = |ifindex, prefsrc| RouteView {
            metric: 0,
            action: RouteAction::Device { ifindex },
            prefsrc,
            ..base(7)
        };
        let neighbour = |ifindex| NeighbourView {
            ifindex,
            address: Ipv4Addr::new(10, 9, 1, 7),
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            permanent: true,
        };
        let (priority, table) = (PODS_RULE_PRIORITY, PODS_TABLE);
        let steps = [
            HostStep::AddRule { priority, table, mark: None },
            HostStep::AddRule { priority, table, mark: None },
            HostStep::AddRule { priority: 600, table: 77, mark: None },
            HostStep::DeleteRule { priority: 601, table: 77, mark: None },
            HostStep::DeleteRule { priority: 600, table: 77, mark: None },
            HostStep::DeleteRule { priority: 32766, table: 254, mark: None },
            HostStep::AddRoute(base(7)),
            HostStep::AddRoute(wide),
            HostStep::AddRoute(wide),
            HostStep::AddRoute(by(30, Some(PRIMARY))),
            HostStep::AddRoute(by(40, None)),
            HostStep::AddRoute(by(40, Some(Ipv4Addr::new(10, 1, 2, 3)))),
            HostStep::AddRoute(by(4000, None)),
            HostStep::DeleteRoute(by(30, None)),
            HostStep::DeleteRoute(RouteView { metric: 5, ..wide }),
            HostStep::DeleteRoute(wide),
            HostStep::DeleteRoute(wide),
            HostStep::DeleteRoute(by(40, Some(PRIMARY))),
            HostStep::SetLink { ifindex: 30, group: ENI_GROUP + 1, inet: ENI_INET, up: true },
            HostStep::SetLink { ifindex: 40, group: POD_GROUP + 2, inet: POD_INET, up: false },
            HostStep::SetLink { ifindex: 4000, group: DYING_GROUP, inet: POD_INET, up: false },
            HostStep::SetNeighbour(neighbour(spec(1).ifindex)),
            HostStep::SetNeighbour(neighbour(30)),
            HostStep::SetNeighbour(neighbour(4000)),
            HostStep::ReplaceNft { text: "table ip eni-cni {\n}\n".into() },
        ];
        for step in steps {
            pair.apply(step);
        }
    });
}
