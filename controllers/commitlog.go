package controllers

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
)

// content is what a commit is of.
type content struct {
	// pods, policies and podCIDRs are those of a table that was built anew.
	pods, policies int
	podCIDRs       []string
	// news are the changes of a commit, as keys and values for the log; for its debug
	// level alone.
	news []any
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
			gone = append(gone, "policy "+key.String())
		} else {
			policies = append(policies, key.String())
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
			news = append(news, [...]string{"pods", "policies", "gone"}[i], short(names))
		}
	}
	return append(news, "addresses", addresses)
}

func texts[T fmt.Stringer](values []T) (all []string) {
	for _, value := range values {
		all = append(all, value.String())
	}
	return all
}
