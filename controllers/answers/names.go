package answers

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/policy"
)

// listed is what domain names are resolved to, as it was listed in the model: once in countsFor, as that takes some 10 ms of
// 100,000 addresses, under the model's mutex.
type listed struct {
	mu    sync.Mutex
	names answers.Names
}

// serveNames answers what domain names are resolved to.
func (s *Server) serveNames(w http.ResponseWriter, r *http.Request) {
	if allowed(w, r, http.MethodGet) {
		write(w, http.StatusOK, s.names(time.Now()))
	}
}

// names lists them, if nobody has within the last second. What has expired by now has lapsed, also if the model has not been
// told what time it is.
func (s *Server) names(now time.Time) answers.Names {
	s.listed.mu.Lock()
	defer s.listed.mu.Unlock()
	if has := s.listed.names; !has.Time.IsZero() && now.Sub(has.Time) < countsFor {
		return has
	}
	n := answers.Names{
		TypeMeta: answers.TypeMeta{APIVersion: answers.Version, Kind: "Names"}, Node: s.options.Node, Time: now, Names: []answers.Name{},
	}
	pods := map[netip.Addr]answers.Name{}
	counting, lapsed := s.options.Model.KnownNames()
	for _, r := range lapsed {
		n.Lapsed = append(n.Lapsed, s.nameOf(r, pods))
	}
	for _, r := range counting {
		if r.Expires.After(now) {
			n.Names = append(n.Names, s.nameOf(r, pods))
		} else {
			n.Lapsed = append(n.Lapsed, s.nameOf(r, pods))
		}
	}
	s.listed.names = n
	return n
}

// nameOf is a resolution as it is answered. It remembers in pods who has which address.
func (s *Server) nameOf(r policy.Resolution, pods map[netip.Addr]answers.Name) answers.Name {
	whose, known := pods[r.Pod]
	if !known && r.Pod.IsValid() && s.options.Names != nil {
		e := s.options.Names.Endpoint(r.Pod, 0)
		whose = answers.Name{Namespace: e.Namespace, Pod: e.Pod}
		pods[r.Pod] = whose
	}
	whose.Name, whose.Address, whose.PodAddress, whose.Expires = r.Name, r.Addr, r.Pod, r.Expires
	return whose
}
