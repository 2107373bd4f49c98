package api

import "time"

// EgressPolicy says what a VM with network nat may reach. Whatever it says,
// private and special addresses, the host and other VMs are out of reach.
type EgressPolicy struct {
	Allow []string `json:"allow,omitempty" nullable:"false" maxItems:"256" maxLength:"256" example:"*.github.com" doc:"Addresses, networks, domains, *.domains or *; beats deny"`
	Deny  []string `json:"deny,omitempty" nullable:"false" maxItems:"256" maxLength:"256" example:"*" doc:"The same; * is everything that allow does not name"`
	Learn bool     `json:"learn,omitempty" doc:"Let pass what the policy refuses, and note it: GET …/egress/learned tells what was needed"`
	DNS   []string `json:"dns,omitempty" nullable:"false" maxItems:"10" maxLength:"64" example:"192.0.2.53" doc:"IPv4 addresses of the servers that names are asked of, in order, on port 53; absent: the installation's"`
	// What is secret in these is told as ***, which in a change stands for what there is.
	Rules []HeaderRule `json:"rules,omitempty" nullable:"false" maxItems:"64" doc:"Headers that are set in HTTPS requests to hosts, which the VM never sees"`
	Proxy *EgressProxy `json:"proxy,omitempty" doc:"SOCKS5 proxy that TCP connections go through"`
}

// HeaderRule sets headers of HTTPS requests to a host.
type HeaderRule struct {
	Host    string            `json:"host" maxLength:"256" example:"api.example.com" doc:"A domain, or *. and one for all below it; the exact one counts, else the longest"`
	Headers map[string]string `json:"headers" minProperties:"1" maxProperties:"32" doc:"Values by name; told as ***, which in a change stands for the value that there is"`
}

// EgressProxy is a SOCKS5 proxy (RFC 1928).
type EgressProxy struct {
	Address  string `json:"address" maxLength:"262" example:"proxy.example.com:1080" doc:"Domain or IPv4 address, and port"`
	Username string `json:"username,omitempty" maxLength:"255" doc:"Absent: it wants no credentials"`
	Password string `json:"password,omitempty" maxLength:"255" doc:"Told as ***, which in a change stands for the one that there is"`
}

// VMEgress is a VM's policy.
type VMEgress struct {
	EgressPolicy
	InForce bool `json:"in_force" doc:"False while a change is stored but its worker has not taken it over"`
}

// SecretUse gives a stored secret to a VM.
type SecretUse struct {
	Name  string   `json:"name" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Of the stored secret"`
	Env   string   `json:"env" maxLength:"128" pattern:"^[A-Za-z_][A-Za-z0-9_]*$" doc:"Environment variable of executions that holds it"`
	Hosts []string `json:"hosts,omitempty" nullable:"false" maxItems:"32" maxLength:"256" example:"api.github.com" doc:"If any, the VM sees a placeholder only: requests to these hosts (domains, or *. for all below) leave with the value in its place"`
}

// EgressEntry is one line of a VM's egress log.
type EgressEntry struct {
	Seq           int64     `json:"seq" doc:"Rises within the VM's log"`
	At            time.Time `json:"at"`
	Verdict       string    `json:"verdict" enum:"allow,deny,end,gap" doc:"end is that of a proxied connection, with its bytes; a gap is entries that were too many to be kept"`
	Via           string    `json:"via" doc:"Who decided: kernel (by addresses), dns, tls, http, or tcp for a proxied connection that tells no name"`
	Protocol      string    `json:"protocol" doc:"tcp, udp, icmp, dns, or the IP protocol's number"`
	Name          string    `json:"name,omitempty" doc:"The host asked for"`
	Address       string    `json:"address,omitempty" doc:"Where it went or wanted to go"`
	Port          uint16    `json:"port,omitempty"`
	Rule          string    `json:"rule,omitempty" doc:"The policy's entry that decided; absent: none did"`
	Reason        string    `json:"reason,omitempty" doc:"Why it was denied: policy, private, quic, ech, no_name, mismatch, unresolved, unreachable, dns_type, busy"`
	Learned       bool      `json:"learned,omitempty" doc:"Only learning let it pass"`
	SentBytes     int64     `json:"sent_bytes,omitempty"`
	ReceivedBytes int64     `json:"received_bytes,omitempty"`
	Count         int       `json:"count,omitempty" doc:"How many of the same within a second; absent: one"`
}
