// Package network gives machines their user and network namespaces and
// decides what they can reach.
//
// # Pairs
//
// A machine gets a pair: a user namespace with 65536 IDs of its own and a
// network namespace that belongs to it. The two are made together, because
// only then is root inside the one also root over the other. They are kept by
// bind mounts in the runtime directory, without a process, so that a driver
// joins them by path. Making a pair takes milliseconds; a few of each mode
// are kept ready, and [Manager.Acquire] takes tens of microseconds. A pair
// that a guest ran in is never used again.
//
// # Mode nat
//
//	guest: eth0 10.x.y.z/32            host
//	   │  default via gateway            bridge 10.x.0.1/20 ── masquerade ── uplink
//	   └── veth ── isolated port ───────────┘   └── netd: DNS
//
// The first machine with mode nat makes the instance's network: a subnet that
// no route of the host and no other instance overlaps, a bridge, two nftables
// tables and netd. From then on a machine is a veth pair and one element of a set.
//
// A machine with a kernel of its own has a tap in that namespace instead of
// the address ([Manager.Tap]), and one whose namespaces something else makes has
// its end of the veth in there ([Manager.Move]):
//
//	guest kernel ── tap0 ══ eth0 ── veth ── …      the container's eth0 ── veth ── …
//	                  redirection in the namespace
//
// From the host's end on, all three are one.
//
// What holds machines apart and in, from the wire up:
//
//   - Ports of the bridge are isolated: frames go to the bridge itself or
//     nowhere. They learn nothing and flood nothing; the forwarding and
//     neighbour entries are written by the manager.
//   - The guard (nftables family bridge) passes untagged IPv4 and ARP with the
//     port's own Ethernet and IP address. IPv6, VLANs and forged senders end there.
//   - Egress (family inet) refuses other machines, then lets through what
//     [Config.AllowCIDRs] says, refuses what [Config.DenyCIDRs] says, and lets
//     the rest out behind the host's address. A refusal is an answer (a TCP
//     reset, ICMP administratively prohibited), so that clients fail at once;
//     the kernel rations the ICMP ones. The number of open connections is bounded.
//   - From the host, a machine gets DNS and ping on the gateway address, and
//     nothing else, whatever AllowCIDRs says. From outside, only replies come in.
//
// Names are resolved by netd, a process without rights that outlives the
// worker (package netd). Its answers may name any address: reaching it is
// what the rules decide.
//
// # The host's other firewalls
//
// All tables of a hook must let a packet pass. Where iptables' FORWARD or
// INPUT chain drops by default (Docker, ufw), the manager inserts an accept
// rule for its bridge, into DOCKER-USER where that exists, when the network
// is made and whenever a machine is added. Other tables that drop are named by [Check].
//
// IPv4 forwarding is switched on where it is off, and off again by the last
// instance, unless another bridge has come to rely on it.
//
// # State
//
// Two places, both below /run by default, hold everything that another
// process needs to go on:
//
//	RuntimeDir/lock                 held by the one manager of the instance
//	RuntimeDir/instance.json        a copy of the instance's lease
//	RuntimeDir/pairs/ID/record.json what the pair is, written before it becomes so
//	RuntimeDir/pairs/ID/{user,net}  the namespaces
//	RuntimeDir/netd.{lock,json,log} held by netd while it lives; how it was started
//	HostDir/leases/INSTANCE.json    what the instance holds on this host
//	HostDir/lock                    taken to change a lease
//
// A lease holds blocks of user IDs, a subnet, the prefix of interface names
// and changed kernel settings, so that instances never meet. IDs are taken
// from a range that belongs to nobody by convention, without those that
// /etc/subuid, /etc/subgid, /etc/passwd and /etc/group give away, and a range is
// used again only when no process has an ID of it.
//
// A pair goes making, ready, claimed, removing, draining and never back.
// [Open] compares the records with the kernel and finishes or undoes what a
// crash interrupted; [Manager.Teardown] leaves nothing of the instance and
// touches nothing of another.
//
// # Limits
//
// A bridge has 1023 ports, so an instance has at most that many machines with
// mode nat, ready ones included. Users that only a directory service knows are
// not seen when IDs are leased. A network that the host joins later and that
// overlaps the instance's subnet is not noticed.
package network
