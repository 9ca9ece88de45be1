//! HTTP where the machine is, and where the node finds it: at the metadata service's own address, by the router.
//!
//! Owns those tests.

use crate::vpc::Vpc;

const ADDRESS: &str = "169.254.169.254";

/// A request from inside a namespace; none when no answer came in time.
fn ask(vpc: &Vpc, role: &str, request: &str) -> Option<String> {
    let script = format!(
        "exec 3<>/dev/tcp/{ADDRESS}/80; printf '{request}\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
    );
    let output = vpc.inside(role, "timeout").args(["2", "bash", "-c", &script]).output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (!text.is_empty()).then_some(text)
}

const TOKEN: &str = "PUT /latest/api/token HTTP/1.1\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 60";
const GET: &str = "GET /latest/meta-data/mac HTTP/1.1";

fn node(hop_limit: &str) -> Vpc {
    let vpc = Vpc::new(&[
        "--instance-type",
        "test.4x6",
        "--secondary",
        "1",
        "--http",
        "127.0.0.1:0",
        "--hop-limit",
        hop_limit,
    ]);
    // A container behind the node: the client's namespace, by a second link, with a secondary address of the primary
    // ENI.
    let pod = vpc.enis()[0].secondary[0];
    vpc.ip(
        "node",
        &format!(
            "link add pod type veth peer name eth1 netns {}\n\
             link set pod up\n\
             addr add 169.254.1.1/32 dev pod\n\
             route add {pod}/32 dev pod\n",
            vpc.topology.client_netns
        ),
    );
    vpc.ip(
        "client",
        &format!(
            "link set eth1 up\n\
             addr add {pod}/32 dev eth1\n\
             route add {ADDRESS}/32 via 169.254.1.1 dev eth1 onlink src {pod}\n"
        ),
    );
    vpc
}

#[test]
fn netns_the_node_finds_the_metadata_service_at_its_own_address() {
    let vpc = node("1");
    let answer = ask(&vpc, "node", TOKEN).expect("the node is one hop away");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let token = answer.lines().last().expect("a token");
    let get = format!("{GET}\\r\\nX-aws-ec2-metadata-token: {token}");
    let mac = ask(&vpc, "node", &get).expect("an answer");
    assert!(mac.ends_with(&vpc.enis()[0].mac.to_string()), "{mac}");
    // A container reaches it, and no token reaches the container.
    assert!(ask(&vpc, "client", GET).expect("an answer").starts_with("HTTP/1.1 401"));
    assert_eq!(ask(&vpc, "client", TOKEN), None, "a token goes one hop");
    let far = node("2");
    assert!(ask(&far, "client", TOKEN).expect("two hops").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn netns_the_topology_tells_where_http_is() {
    let vpc = node("2");
    let here = vpc.topology.ec2_endpoint.clone().expect("it is served");
    assert_eq!(vpc.topology.imds_endpoint.as_ref(), Some(&here));
    assert_eq!(vpc.topology.node_endpoint.as_deref(), Some("http://169.254.169.254"));
    let address = here.strip_prefix("http://").expect("an endpoint");
    assert!(std::net::TcpStream::connect(address).is_ok(), "{address}");
    let answer = ask(&vpc, "node", "POST / HTTP/1.1\\r\\nContent-Length: 0").expect("EC2 answers there too");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("InvalidParameterValue"), "{answer}");
}
