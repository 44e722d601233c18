package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/policy"
)

// classifier tells which ends are alike to all policies, so that one of them stands for all.
type classifier struct {
	x *Explainer
	// blocks are all networks that policies name.
	blocks []netip.Prefix
	// nodeSelectors are all selectors of nodes that policies have, and that can be read.
	nodeSelectors []labels.Selector
	// names says of each address which names have to do with it.
	names map[netip.Addr]string
	// byNode: pods of different nodes are not alike, as one that asks, or is asked, is a node.
	byNode bool
}

func (x *Explainer) classifier() classifier {
	c := classifier{x: x, names: textsByAddress(x.all)}
	seen := map[netip.Prefix]bool{}
	add := func(text string) {
		if cidr, err := policy.ParsePrefix(text); err == nil && !seen[cidr] {
			seen[cidr] = true
			c.blocks = append(c.blocks, cidr)
		}
	}
	each := func(rules []rule) {
		for _, r := range rules {
			for _, p := range r.peers {
				if p.nodes != nil {
					if selector, err := metav1.LabelSelectorAsSelector(p.nodes); err == nil {
						c.nodeSelectors = append(c.nodeSelectors, selector)
					}
				}
				for _, b := range p.blocks {
					add(b.cidr)
					for _, except := range b.except {
						add(except)
					}
				}
			}
		}
	}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		for _, np := range x.cluster.Policies {
			each(networkRules(np, d))
		}
		for _, cnp := range x.cluster.ClusterPolicies {
			each(clusterRules(cnp, d))
		}
	}
	return c
}

// ofEnd is a text that is the same for ends which are alike: pods of one workload with the same labels and
// ports, in the same of all networks, that are alike in what is said of them.
func (c classifier) ofEnd(e end) string {
	if e.pod == nil {
		return fmt.Sprintf("%s %s/%s %v", e.Kind, e.Namespace, e.Name, e.addrs)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %v %v %t", e.pod.Namespace, e.pod.Labels, declaredPorts(e.pod), e.StandIn)
	if e.Workload != nil {
		fmt.Fprintf(&text, " %v", *e.Workload)
	} else {
		fmt.Fprintf(&text, " %s", e.Name)
	}
	if c.byNode {
		fmt.Fprintf(&text, " %s", e.Node)
	}
	for _, addr := range e.addrs {
		text.WriteByte(' ')
		text.WriteString(c.ofAddr(addr))
		if len(c.x.holders[addr]) > 1 || slices.ContainsFunc(c.x.nodes, func(n policy.Node) bool { return slices.Contains(n.Listed, addr) }) {
			fmt.Fprintf(&text, "%s", addr) // who has it is in doubt
		}
	}
	return text.String()
}

// ofAddr is a text that is the same for addresses of one family that are in the same of all networks, and alike to all
// domain names.
func (c classifier) ofAddr(addr netip.Addr) string {
	text := []byte{'6'}
	if addr.Is4() {
		text[0] = '4'
	}
	for i, cidr := range c.blocks {
		if cidr.Contains(addr) {
			text = append(strconv.AppendInt(append(text, '.'), int64(i), 10), ',')
		}
	}
	return string(append(text, c.names[addr]...))
}

// ofHost is a text that is the same for ends with nodes' addresses which are alike to all policies, but for
// the pods of their own node.
func (c classifier) ofHost(e end) string {
	var text strings.Builder
	at := slices.IndexFunc(c.x.nodes, func(n policy.Node) bool { return n.Name == e.Node })
	for _, selector := range c.nodeSelectors {
		if at >= 0 && selector.Matches(labels.Set(c.x.cluster.Nodes[at].Labels)) {
			text.WriteByte('+')
		} else {
			text.WriteByte('-')
		}
	}
	for _, addr := range e.addrs {
		fmt.Fprintf(&text, " %s", c.ofAddr(addr))
		holders := len(c.x.holders[addr])
		for _, node := range c.x.nodes {
			if nodeHas(node, addr) {
				holders++
			}
		}
		if holders != 1 {
			fmt.Fprintf(&text, " %s", addr) // who has it is in doubt
		}
	}
	return text.String()
}

func (c classifier) ofWay(w way) string {
	text := c.ofEnd(w.to) + " " + w.port.full()
	if w.by != nil {
		text += fmt.Sprint(*w.by)
	}
	return text
}

// group puts values of one class together, classes in the order of their first.
func group[T any](all []T, class func(T) string) (groups [][]T) {
	at := map[string]int{}
	for _, one := range all {
		key := class(one)
		i, has := at[key]
		if !has {
			i = len(groups)
			at[key] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], one)
	}
	return groups
}
