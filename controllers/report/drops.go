package report

import (
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// countersEvery is how often the counters of the kernel's rules are read at most. Who scrapes more often
// gets what was read last.
const countersEvery = 5 * time.Second

// countersTries is how often they are read anew, at once, if the rules have changed meanwhile. If they always
// have, what was read last is told once more.
const countersTries = 3

// ReadCounters reads what the rules of a table have counted; whole is false if the rules have changed meanwhile.
type ReadCounters func() (counters nft.Counters, whole bool, err error)

// counters are the metrics that are made of what the kernel's rules have counted. A rule that is replaced
// counts from 0. So what is told is the sum of what each rule has counted between two readings, which never
// goes back. What a rule has counted between the last reading and its end is lost.
type counters struct {
	read   ReadCounters // nil: the kernel counts nothing
	frames ReadCounters // nil: there is no table of family bridge
	rules  func() (enforcer.Rules, bool)
	held   func(enforcer.Rules) bool
	asking func() map[policy.Key]struct{}
	now    func() time.Time
	log    logr.Logger

	mu sync.Mutex
	// looked is when the counters were read last.
	looked time.Time
	// ofPackets and ofFrames are what the rules of the two tables had counted then.
	ofPackets, ofFrames lastCounted
	// asked are the policies that had metrics of their own then.
	asked map[policy.Key]struct{}
	// drops and policies are what is told.
	drops    map[denial]float64
	policies map[ofPolicy]float64
}

// lastCounted is what the rules of a table had counted when that was read last, by handle.
type lastCounted struct {
	table  uint64
	before map[uint64]uint64
}

// more is how many packets a rule has counted since. A rule that is new, or of another table, counts from 0.
func (l lastCounted) more(table uint64, rule nft.Counted) float64 {
	if table != l.table { // whose rules have other numbers
		return float64(rule.Packets)
	}
	return float64(rule.Packets - min(l.before[rule.Handle], rule.Packets))
}

// denial is what podfence_drop_total is divided by, and ofPolicy what podfence_policy_packets_total is.
type denial struct {
	direction flows.Direction
	reason    flows.Reason
}

type ofPolicy struct {
	policy    policy.Key
	direction flows.Direction
	verdict   flows.Verdict
}

// Counters are the metrics that are made of what the kernel's rules have counted. read reads that of the
// policies' table; nil: nobody can. frames reads that of the table of family bridge, with comments; nil: there is
// none.
func (r *Reporter) Counters(read, frames ReadCounters, log logr.Logger) prometheus.Collector {
	return newCounters(&counters{
		read: read, frames: frames, asking: r.Counting.Policies, now: time.Now, log: log,
		rules: func() (enforcer.Rules, bool) { return r.enforcer.Rules() }, held: func(rules enforcer.Rules) bool { return r.enforcer.Held(rules) },
	})
}

func newCounters(c *counters) *counters {
	c.drops, c.policies = map[denial]float64{}, map[ofPolicy]float64{}
	// So that the first packet is an increase.
	for _, reason := range flows.Reasons {
		switch reason {
		case flows.Changed: // which no rule has
		case flows.DefaultDeny, flows.ByRule:
			c.drops[denial{flows.Ingress, reason}], c.drops[denial{flows.Egress, reason}] = 0, 0
		case flows.Invalid:
			c.drops[denial{flows.Ingress, reason}], c.drops[denial{flows.Egress, reason}] = 0, 0
			fallthrough
		default:
			c.drops[denial{"", reason}] = 0
		}
	}
	return c
}

var (
	dropDescription = prometheus.NewDesc("podfence_drop_total",
		"Packets that podfence's rules have denied since the agent started, by reason, and by the direction of the pod's rules that denied them (empty: no pod's own rules did). Read from the kernel at most every 5 seconds.",
		[]string{"direction", "reason"}, nil)
	policyDescription = prometheus.NewDesc("podfence_policy_packets_total",
		"Packets that rules of a policy have decided about, for policies that ask for it by the annotation podfence.io/metrics: true. Allowed are first packets of connections; denied by a NetworkPolicy are those that none of the policies allows that isolate the pod, counted for each of these.",
		[]string{"namespace", "policy", "direction", "verdict"}, nil)
)

// Describe implements prometheus.Collector.
func (c *counters) Describe(to chan<- *prometheus.Desc) {
	to <- dropDescription
	to <- policyDescription
}

// Collect implements prometheus.Collector.
func (c *counters) Collect(to chan<- prometheus.Metric) {
	if c.read == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); c.looked.IsZero() || now.Sub(c.looked) >= countersEvery {
		c.looked = now
		c.look()
		c.lookAtFrames()
	}
	for of, packets := range c.drops {
		to <- prometheus.MustNewConstMetric(dropDescription, prometheus.CounterValue, packets, string(of.direction), string(of.reason))
	}
	for of, packets := range c.policies {
		to <- prometheus.MustNewConstMetric(policyDescription, prometheus.CounterValue, packets,
			of.policy.Namespace, of.policy.Name, string(of.direction), string(of.verdict))
	}
}

// each reads the counters, if that is due, and hands out those of policies.
func (c *counters) each(do func(of ofPolicy, packets float64)) {
	if c.read == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); c.looked.IsZero() || now.Sub(c.looked) >= countersEvery {
		c.looked = now
		c.look()
	}
	for of, packets := range c.policies {
		do(of, packets)
	}
}

// look reads the counters, and takes them in if they are those of the rules that are known. The caller
// holds mu.
func (c *counters) look() {
	for range countersTries {
		rules, held := c.rules()
		if !held {
			continue
		}
		read, whole, err := c.read()
		if err != nil {
			c.log.Error(err, "Cannot read what the kernel's rules have counted; the metrics tell what was read before")
			return
		}
		if whole && c.held(rules) && sameRules(rules.Chains, read.Chains) {
			c.take(rules.Chains, read)
			return
		}
	}
}

// sameRules reports whether the chains that were read have as many rules as those that are known, and the
// same of these count. Somebody else may have changed the table, which will be noticed and repaired.
func sameRules(known map[string]*nft.Chain, read map[string][]nft.Counted) bool {
	for name, chain := range known {
		if len(read[name]) != len(chain.Rules) {
			return false
		}
		for i := range chain.Rules {
			if read[name][i].Counter != chain.Rules[i].Counter {
				return false
			}
		}
	}
	return true
}

// take adds what the rules have counted since the last reading. The caller holds mu.
func (c *counters) take(known map[string]*nft.Chain, read nft.Counters) {
	asking := c.asking()
	maps.DeleteFunc(c.policies, func(of ofPolicy, _ float64) bool { return !isIn(asking, of.policy) })
	before := map[uint64]uint64{}
	for name, chain := range known {
		for i, rule := range chain.Rules {
			direction, reason := ruleset.ReasonOf(rule)
			count, ofPolicies := ruleset.PolicyCount{}, false
			if len(asking) > 0 {
				count, ofPolicies = ruleset.CountOf(known, name, rule)
			}
			if !rule.Counter || reason == "" && !ofPolicies {
				continue
			}
			counted := read.Chains[name][i]
			before[counted.Handle] = counted.Packets
			more := c.ofPackets.more(read.Table, counted)
			if reason != "" {
				c.drops[denial{direction, reason}] += more
			}
			for _, key := range count.Policies {
				switch of := (ofPolicy{key, count.Direction, count.Verdict}); {
				case isIn(c.asked, key) && isIn(asking, key):
					c.policies[of] += more
				case isIn(asking, key): // what its rules have counted until now is nobody's
					c.policies[of] += 0
				}
			}
		}
	}
	c.ofPackets, c.asked = lastCounted{read.Table, before}, asking
}

// lookAtFrames adds what the rules of the table of family bridge have denied since the last reading. Their
// comments say why, so nobody needs to know which rules there are. The caller holds mu.
func (c *counters) lookAtFrames() {
	if c.frames == nil {
		return
	}
	for range countersTries {
		read, whole, err := c.frames()
		if err != nil {
			c.log.Error(err, "Cannot read what the kernel's rules for frames have counted; the metrics tell what was read before")
			return
		}
		if !whole {
			continue
		}
		before := map[uint64]uint64{}
		for _, rules := range read.Chains {
			for _, rule := range rules {
				if reason := ruleset.ReasonOfComment(rule.Comment); reason != "" && rule.Counter {
					before[rule.Handle] = rule.Packets
					c.drops[denial{"", reason}] += c.ofFrames.more(read.Table, rule)
				}
			}
		}
		c.ofFrames = lastCounted{read.Table, before}
		return
	}
}

// stagedCounters are the metrics that are made of what the rules of the staged table have counted.
type stagedCounters struct {
	*counters
	staged func() map[policy.Key]struct{}
}

// StagedCounters are the metrics of what staged policies would have denied. read reads the counters of their table;
// nil: nobody can.
func (r *Reporter) StagedCounters(read ReadCounters, log logr.Logger) prometheus.Collector {
	staged := func() map[policy.Key]struct{} { return firstOf(r.enforcer.StagedPolicies()) }
	return &stagedCounters{newCounters(&counters{
		read: read, asking: staged, now: time.Now, log: log,
		rules: func() (enforcer.Rules, bool) { return r.enforcer.StagedRules() }, held: func(rules enforcer.Rules) bool { return r.enforcer.HeldStaged(rules) },
	}), staged}
}

// firstOf are as many policies as have metrics of their own.
func firstOf(policies []policy.Key) map[policy.Key]struct{} {
	first := map[policy.Key]struct{}{}
	for _, key := range policies[:min(len(policies), mostCounted)] {
		first[key] = struct{}{}
	}
	return first
}

var stagedDescription = prometheus.NewDesc("podfence_staged_packets_total",
	"Packets of no established flow that a staged policy would have denied, while it is staged: of a connection, each that asks for it; of UDP without an answer, all. The first 200 staged policies by name have it. Of a NetworkPolicy they are those that none of the policies would allow that would isolate the pod, counted for each that is staged.",
	[]string{"namespace", "policy", "direction"}, nil)

// Describe implements prometheus.Collector.
func (c *stagedCounters) Describe(to chan<- *prometheus.Desc) { to <- stagedDescription }

// Collect implements prometheus.Collector.
func (c *stagedCounters) Collect(to chan<- prometheus.Metric) {
	staged := c.staged()
	c.each(func(of ofPolicy, packets float64) {
		if _, is := staged[of.policy]; is && of.verdict == flows.Denied {
			to <- prometheus.MustNewConstMetric(stagedDescription, prometheus.CounterValue, packets, of.policy.Namespace, of.policy.Name, string(of.direction))
		}
	})
}
