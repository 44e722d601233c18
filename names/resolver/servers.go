package resolver

import (
	"net/netip"
	"slices"
	"time"
)

// suspectFor is how long a resolver that has not answered is asked only if there is no other.
const suspectFor = 30 * time.Second

// servers are the resolvers, in order of preference.
type servers struct {
	all []netip.AddrPort
	// silent is since when each has not answered. One that is not asked any more is not in it.
	silent map[netip.AddrPort]time.Time
}

func newServers() *servers { return &servers{silent: map[netip.AddrPort]time.Time{}} }

// replace takes other resolvers, and keeps what is known of those that stay.
func (s *servers) replace(all []netip.AddrPort) {
	s.all = all
	for server := range s.silent {
		if !slices.Contains(all, server) {
			delete(s.silent, server)
		}
	}
}

// pick is the resolver to ask: the first that is not suspect, or else the one whose silence is noted for the longest time;
// but not the one that has just failed, if there is another. There must be one.
func (s *servers) pick(now time.Time, failed netip.AddrPort) netip.AddrPort {
	var best netip.AddrPort
	var bestSilent time.Time
	for _, server := range s.all {
		silent := s.silent[server]
		if now.Sub(silent) >= suspectFor {
			silent = time.Time{}
		}
		if server != failed && (!best.IsValid() || silent.Before(bestSilent)) {
			best, bestSilent = server, silent
		}
	}
	if !best.IsValid() {
		return failed
	}
	return best
}

// note notes whether a resolver has answered, if it is still one.
func (s *servers) note(server netip.AddrPort, answered bool, now time.Time) {
	switch {
	case answered:
		delete(s.silent, server)
	case slices.Contains(s.all, server):
		s.silent[server] = now
	}
}
