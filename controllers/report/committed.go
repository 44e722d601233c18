package report

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// committed reports what a commit has changed.
func (r *Reporter) committed(c enforcer.Committed) {
	r.Enforcement.committed(c)
	switch {
	case c.Intent != nil:
		r.podCIDRs = texts(c.Intent.PodCIDRs)
	case c.Delta.PodCIDRs != nil:
		r.podCIDRs = texts(*c.Delta.PodCIDRs)
	}
	if c.Intent == nil {
		r.orphans(c.Delta.Orphans)
	}
	switch {
	case c.Replaced:
		r.refusedAddrs(c.RefusedAddrs)
		counts := r.enforcer.Counts()
		r.log.Info("Replaced the table", "pods", counts.Pods, "policies", counts.Active, "elements", c.Elements,
			"podCIDRs", r.podCIDRs, "operations", c.Operations, "took", c.Took.String())
	case c.Operations > 0 && r.log.V(1).Enabled():
		r.log.V(1).Info("Committed", append(newsOf(c.Delta), "operations", c.Operations, "took", c.Took.String())...)
	}
}

// newsOf names the pods and policies that a commit is for: "pods" and "policies" of this
// node that have come or changed, or "gone"; and "addresses", how many of any node's pods
// have come to, or left, the peers of policies.
func newsOf(delta policy.Delta) []any {
	var pods, policies, gone []string
	for key, subject := range delta.Subjects {
		if subject == nil {
			gone = append(gone, "pod "+key.String())
		} else {
			pods = append(pods, key.String())
		}
	}
	for key, changed := range delta.Policies {
		if changed == nil {
			gone = append(gone, "policy "+short(key))
		} else {
			policies = append(policies, short(key))
		}
	}
	addresses := 0
	for _, members := range delta.Peers {
		addresses += len(members.Add) + len(members.Remove)
	}
	var news []any
	for i, names := range [...][]string{pods, policies, gone} {
		if len(names) > 0 {
			slices.Sort(names)
			news = append(news, [...]string{"pods", "policies", "gone"}[i], Short(names))
		}
	}
	return append(news, "addresses", addresses)
}

// short is a policy's name in a list of policies: "namespace/name", or "name" if it is a
// ClusterNetworkPolicy.
func short(key policy.Key) string {
	if key.Namespace == "" {
		return key.Name
	}
	return key.String()
}

func texts[T fmt.Stringer](values []T) (all []string) {
	for _, value := range values {
		all = append(all, value.String())
	}
	return all
}
