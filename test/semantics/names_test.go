package semantics_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// naming is a ClusterNetworkPolicy by which shop reaches, of all addresses, those of names.
func naming(rules string) string {
	return base + `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [` + rules + `, {action: Deny, to: [` + anywhere + `]}]}` + "\n"
}

const toNames = `{action: Accept, to: [{domainNames: [Example.com., "*.api.example.com"]}], protocols: [{tcp: {destinationPort: {number: 443}}}]}`

// told has a pod, or, if there is none, the agent told that a name has the addresses of a host, until a time.
func (c *fenced) told(pod, name, host string, until time.Time) {
	c.t.Helper()
	s := c.s
	s.Resolutions = slices.Clone(s.Resolutions)
	for _, addr := range c.host(host).IPs {
		r := policy.Resolution{Name: name, Addr: addr, Expires: until}
		if pod != "" {
			r.Pod = c.host(pod).IP(addr)
		}
		s.Resolutions = append(s.Resolutions, r)
	}
	c.set(s)
}

// namesChange changes the policies, and leaves what was told.
func (c *fenced) namesChange(text string) {
	c.t.Helper()
	s := snapshot(c.t, text)
	s.Resolutions = c.s.Resolutions
	c.set(s)
}

// TestB12_Names: a name means what the pod was told when it asked for the name, or the agent, and nothing else.
func TestB12_Names(t *testing.T) {
	later := time.Now().Add(time.Hour)
	c := cluster(t, naming(toNames))
	c.expect(`
		deny shop/web -> world tcp 443     # nobody was told anything
	`)
	c.told("shop/web", "example.com", "world", later)
	c.expect(`
		allow shop/web -> world tcp 443
		deny  shop/web -> world tcp 80      # the rule's ports
		deny  shop/web -> world ping
		deny  shop/api -> world tcp 443     # what one pod was told is of no use to another
		deny  shop/web -> ops/far tcp 443   # another address
		allow ops/cron -> world tcp 443     # no policy with names is about it
	`)
	// A wildcard means one or more labels before it, and not the name itself.
	c.told("shop/api", "api.example.com", "world", later)
	c.told("shop/api", "napi.example.com", "world", later)
	c.told("shop/api", "www.example.com", "world", later)
	c.expect(`deny shop/api -> world tcp 443`)
	c.told("shop/api", "eu.west.api.example.com", "world", later)
	c.expect(`allow shop/api -> world tcp 443`)
	// The rules come and go while the answers stay.
	c.namesChange(base)
	c.expect(`allow shop/api -> world tcp 80`)
	c.namesChange(naming(toNames))
	c.expect(`
		allow shop/api -> world tcp 443
		allow shop/web -> world tcp 443
		deny  shop/web -> world tcp 80
	`)
	// A name among others of a rule; the order of rules counts as everywhere.
	c.namesChange(naming(`{action: Deny, to: [` + anywhere + `], protocols: [{tcp: {destinationPort: {number: 443}}}]}, ` + toNames))
	c.expect(`deny shop/web -> world tcp 443`)
}

// TestB12_TheAgentsAnswers: what the agent was told counts for all pods that the policy is about, for names that are no
// wildcards.
func TestB12_TheAgentsAnswers(t *testing.T) {
	c := cluster(t, naming(toNames))
	c.told("", "example.com", "world", time.Now().Add(time.Hour))
	c.told("", "www.api.example.com", "ops/far", time.Now().Add(time.Hour))
	c.expect(`
		allow shop/web -> world tcp 443
		allow shop/api -> world tcp 443
		deny  shop/web -> ops/far tcp 443
	`)
}

// TestB12_PodsAsNames: a headless Service's name is resolved to pods, whose own policies count.
func TestB12_PodsAsNames(t *testing.T) {
	text := naming(`{action: Accept, to: [{domainNames: [db.ops.svc.cluster.local]}]}`)
	c := cluster(t, text)
	c.told("shop/web", "db.ops.svc.cluster.local", "ops/cron", time.Now().Add(time.Hour))
	c.expect(`
		allow shop/web -> ops/cron tcp 80
		allow shop/web -> ops/cron ping
		deny  shop/api -> ops/cron tcp 80
		deny  shop/web -> db/pg tcp 80
	`)
	c.namesChange(text + `policy ops/p {podSelector: {}, ingress: []}`)
	c.expect(`deny shop/web -> ops/cron tcp 80`)
}

// TestB12_UntilTheTimeIsOver: when the time of an answer is over, no connection begins, without anything that an agent does
// about it. Those that are open go on, until the policy changes.
func TestB12_UntilTheTimeIsOver(t *testing.T) {
	const life = 10 * time.Second // in which connections are opened
	c := revoking(t, lab.Routed, naming(`{action: Accept, to: [{domainNames: [example.com]}]}`))
	c.serve("world", policy.TCP, 5432)
	c.serve("world", policy.UDP, 5432)
	until := time.Now().Add(life)
	c.told("shop/web", "example.com", "world", until)
	flows := c.converse("web to world", "shop/web", 5432, c.host("world").IPs...)
	c.expectAll("before", true, flows)
	if time.Now().After(until) {
		t.Fatalf("the machine takes more than %s to open connections", life)
	}
	time.Sleep(time.Until(until) + 100*time.Millisecond)
	for _, addr := range c.host("world").IPs {
		c.talksTo(false, "shop/web", policy.TCP, netip.AddrPortFrom(addr, 5432)) // the kernel itself has closed it
	}
	if _, err := c.Elapse(time.Now()); err != nil { // now the agent knows
		t.Fatal(err)
	}
	c.s.Resolutions = c.Resolutions()
	if revoked, _ := c.judge(); revoked != 0 || len(c.s.Resolutions) > 0 {
		t.Errorf("%d flows are cut, and %v is left", revoked, c.s.Resolutions)
	}
	c.expect(`deny shop/web -> world tcp 5432`)
	c.expectAll("when the time is over", true, flows)
	c.namesChange(naming(`{action: Accept, to: [{domainNames: [example.net]}]}`))
	if revoked, _ := c.judge(); revoked != len(flows) {
		t.Errorf("%d flows are cut by another name in the policy, want %d", revoked, len(flows))
	}
	c.expectAll("with another name in the policy", false, flows)
}

// TestB12_AddressesOfServices: what goes to a Service is translated before policies see it, so that a name which has the
// Service's address means nothing.
func TestB12_AddressesOfServices(t *testing.T) {
	c := cluster(t, naming(`{action: Accept, to: [{domainNames: [db.db.svc.cluster.local]}]}`))
	c.service("db/pg", 5432)
	s := c.s
	for _, pod := range c.host("shop/web").IPs {
		addr := netip.MustParseAddr("10.96.0.10")
		if pod.Is6() {
			addr = netip.MustParseAddr("fd00:96::10")
		}
		s.Resolutions = append(s.Resolutions, policy.Resolution{Name: "db.db.svc.cluster.local", Addr: addr, Pod: pod, Expires: time.Now().Add(time.Hour)})
	}
	c.set(s)
	c.expect(`
		deny shop/web -> db/pg tcp 5432 family 4 via 10.96.0.10:80
		deny shop/web -> db/pg tcp 5432 family 6 via [fd00:96::10]:80
	`)
}
