package resolver

import "time"

const (
	// leastTTL and mostTTL bound how long an answer counts, whatever its records say. CoreDNS' cache hands out the rest of
	// a record's time, which may be a second.
	leastTTL, mostTTL = 5 * time.Second, time.Hour
	// mostNegativeTTL bounds how long it counts that there is nothing; the least is leastTTL.
	mostNegativeTTL = time.Minute
	// noSOA is the time of a negative answer that says none. Nobody may keep such an answer (RFC 2308 section 5); what is
	// bounded here is how often a name without addresses of a family is asked for.
	noSOA = mostNegativeTTL
	// grace is how much longer an answer counts than its TTL: as long as it takes to hear that four resolvers in a row do
	// not answer.
	grace = 10 * time.Second
	// firstDelay and lastDelay are how long to wait after all resolvers have failed: twice as long each time.
	firstDelay, lastDelay = time.Second, time.Minute
	// atOnce is how many tries follow each other without a delay, each at another resolver.
	atOnce = 4
)

// timing says when things are done. Its functions get a random number of [0, 1), so that what came together does not stay
// together.
type timing struct {
	// least is how long each answer counts at least.
	least time.Duration
}

// timingOf is that of so many questions, of which rate can be asked in a second. An answer counts for at least twice as
// long as it takes to ask all of them, so that more questions than that allow for are not asked late, but less often.
func timingOf(questions int, rate float64) timing {
	round := time.Duration(float64(questions) / rate * float64(time.Second))
	return timing{least: max(leastTTL, 2*round)}
}

// counts is for how long an answer with addresses counts, by its TTL.
func (t timing) counts(ttl time.Duration) time.Duration {
	return min(max(ttl, t.least), max(mostTTL, t.least))
}

// again is after which time an answer is asked for again: when 85 % to 95 % of its time are over.
func (t timing) again(a answer, random float64) time.Duration {
	ttl := t.counts(a.ttl)
	if !a.positive() {
		ttl = max(min(ttl, mostNegativeTTL), t.least)
	}
	return time.Duration(float64(ttl) * (0.85 + 0.1*random))
}

// retry is after which time to ask again what has failed so many times in a row, where there are so many resolvers.
func retry(failed, resolvers int, random float64) time.Duration {
	round := max(1, min(resolvers, atOnce))
	if failed%round != 0 {
		return 0
	}
	delay := lastDelay
	if doublings := failed/round - 1; doublings < 6 {
		delay = min(firstDelay<<doublings, lastDelay)
	}
	return time.Duration(float64(delay) * (0.75 + 0.5*random))
}
