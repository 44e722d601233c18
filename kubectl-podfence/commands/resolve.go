package commands

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// resolving is how commands know which addresses domain names have: by --resolve, or else by the agents of a cluster.
type resolving struct {
	given []string
	addrs map[string][]netip.Addr // what is given
}

func (r *resolving) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&r.given, "resolve", nil, "suppose that every pod was told that a domain name has these addresses, as in api.example.com=203.0.113.7,203.0.113.8, and ask no agent for what they were told (repeatable)")
}

// check reads what is given.
func (r *resolving) check() error {
	for _, text := range r.given {
		name, list, _ := strings.Cut(text, "=")
		domain := policy.DomainNameOf(name)
		if !domain.Valid() || domain.Wildcard() || list == "" {
			return fmt.Errorf("--resolve is %q: it must be a domain name and its addresses, such as api.example.com=203.0.113.7", text)
		}
		for _, part := range strings.Split(list, ",") {
			addr, err := netip.ParseAddr(part)
			if err != nil || addr.Zone() != "" {
				return fmt.Errorf("--resolve is %q: %q is no address", text, part)
			}
			if r.addrs == nil {
				r.addrs = map[string][]netip.Addr{}
			}
			r.addrs[string(domain)] = append(r.addrs[string(domain)], addr.Unmap())
		}
	}
	return nil
}

// explainer answers questions about a cluster, with what is given.
func (r *resolving) explainer(c *explain.Cluster, o policy.JudgeOptions) *explain.Explainer {
	x := explain.New(c, o)
	if r.addrs != nil {
		x = x.Resolving(r.addrs)
	}
	return x
}

// ask asks agents what the domain names of policies are resolved to, if there are any and nothing is given, and adds it to a
// cluster that runs. Only those of some nodes are asked; nil: all. What is not known, notes say.
func (r *resolving) ask(ctx context.Context, f *frame, a *asking, o *objects, nodes []string, policies ...*explain.Cluster) {
	if r.addrs != nil || !o.Running || !slices.ContainsFunc(append(policies, o.Cluster), explain.NamesDomains) {
		return
	}
	unknown := func(format string, args ...any) {
		o.notes = append(o.notes, explain.Note{Reason: "NamesNotKnown", Message: "What domain names are resolved to is not known" + fmt.Sprintf(format, args...)})
	}
	asked, _, err := a.find(ctx, f)
	if err != nil {
		unknown(": %v", err)
		return
	}
	if nodes != nil && !a.byAddress() {
		asked = slices.DeleteFunc(asked, func(of *askedAgent) bool { return !slices.Contains(nodes, of.Node) })
	}
	o.NamesKnown = true
	for i, n := range askNames(ctx, a, asked) {
		if n.err != nil {
			o.NamesKnown = false
			unknown(" of node %s: %v", orAgent(asked[i]), n.err)
			continue
		}
		o.Resolutions = append(o.Resolutions, resolutionsOf(n.Names.Names)...)
		o.Lapsed = append(o.Lapsed, resolutionsOf(n.Lapsed)...)
	}
}

// orAgent is the node of an agent, or where the agent is.
func orAgent(of *askedAgent) string {
	if of.Node != "" {
		return of.Node
	}
	return of.Agent
}

// namesAnswer is what an agent answers to the question for names, or why it does not.
type namesAnswer struct {
	answers.Names
	err error
}

// failed is why the agent has not answered; nil: it has.
func (n *namesAnswer) failed() error { return n.err }

// askNames asks agents what names are resolved to, some at once.
func askNames(ctx context.Context, a *asking, asked []*askedAgent) []namesAnswer {
	all := make([]namesAnswer, len(asked))
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i, of := range asked {
		group.Go(func() error {
			all[i].err = a.ask(ctx, of, http.MethodGet, answers.NamesPath, nil, &all[i].Names)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	return all
}

// resolutionsOf are names as verdicts know them.
func resolutionsOf(names []answers.Name) (all []policy.Resolution) {
	for _, n := range names {
		all = append(all, policy.Resolution{Name: n.Name, Addr: n.Address.Unmap(), Pod: n.PodAddress.Unmap(), Expires: n.Expires})
	}
	return all
}
