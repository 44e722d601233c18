package random

import (
	"math/rand"
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy"
)

// names are what is resolved; policies name some of them, in other letters, and all that end like some (see domains).
var names = []string{"example.com", "www.example.com", "a.b.example.com", "api.example.net", "xample.com", "wwwexample.com"}

// Epoch is the time at which clusters begin.
var Epoch = time.Unix(1_800_000_000, 0)

// Resolution is what one of Node's pods was told, or the agent, or somebody whom the agent does not know. It expires up to
// ten minutes after now.
func Resolution(r *rand.Rand, pods int, now time.Time) policy.Resolution {
	resolution := policy.Resolution{Name: pick(r, names), Expires: now.Add(time.Duration(1+r.Intn(600)) * time.Second)}
	to := append(append([]netip.Addr{}, Outside...), Outside...)
	to = append(to, OtherNodeAddrs...)
	for _, node := range nodeNames[:2] {
		to = append(to, PodAddrs(r.Intn(pods), node)...)
	}
	resolution.Addr = pick(r, to)
	if !maybe(r, 4) {
		// Asked for A and for AAAA by addresses of any family.
		resolution.Pod = pick(r, PodAddrs(r.Intn(pods), pick(r, []string{Node, Node, Node, OtherNode})))
	}
	return resolution
}

// Resolutions are some, which are for a few names and pods, so that packets meet them.
func Resolutions(r *rand.Rand, pods int) (all []policy.Resolution) {
	for range r.Intn(40) {
		all = append(all, Resolution(r, pods, Epoch))
	}
	return all
}
