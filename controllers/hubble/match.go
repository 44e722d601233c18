package hubble

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"k8s.io/apimachinery/pkg/labels"
)

// Here is what each field of a filter means, as Hubble has it.

// side is one end of a flow.
type side func(*flowpb.Flow) *flowpb.Endpoint

func source(f *flowpb.Flow) *flowpb.Endpoint      { return f.GetSource() }
func destination(f *flowpb.Flow) *flowpb.Endpoint { return f.GetDestination() }

// oneOf is a field that lists values, of which the flow's must be one.
func oneOf[T comparable](list func(*flowpb.FlowFilter) []T, of func(*flowpb.Flow) T) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		wanted := list(filter)
		return func(f *flowpb.Flow) bool { return slices.Contains(wanted, of(f)) }, nil
	}
}

// addresses is a field that lists addresses and CIDRs.
func addresses(list func(*flowpb.FlowFilter) []string, of func(*flowpb.IP) string) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		var wanted []netip.Prefix
		for _, text := range list(filter) {
			prefix, err := netip.ParsePrefix(text)
			if addr, also := netip.ParseAddr(text); also == nil {
				addr = addr.Unmap().WithZone("")
				prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
			if err != nil {
				return nil, fmt.Errorf("%q is neither an address, such as 10.0.0.1, nor a CIDR, such as 10.0.0.0/8", text)
			}
			wanted = append(wanted, prefix)
		}
		return func(f *flowpb.Flow) bool {
			addr, err := netip.ParseAddr(of(f.GetIP()))
			return err == nil && slices.ContainsFunc(wanted, func(p netip.Prefix) bool { return p.Contains(addr) })
		}, nil
	}
}

// domainNames is a field that lists domain names, in which * stands for any characters of one, as Hubble has it.
func domainNames(list func(*flowpb.FlowFilter) []string, of func(*flowpb.Flow) []string) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		var wanted []*regexp.Regexp
		for _, text := range list(filter) {
			if text = strings.ToLower(strings.TrimSuffix(text, ".")); !isPattern.MatchString(text) {
				return nil, fmt.Errorf("%q is not a domain name, nor one with *", text)
			}
			any := strings.NewReplacer(".", `\.`, "*", "[-a-z0-9_.]*").Replace(text)
			pattern, err := regexp.Compile("^" + any + "$")
			if err != nil {
				return nil, err
			}
			wanted = append(wanted, pattern)
		}
		return func(f *flowpb.Flow) bool {
			return slices.ContainsFunc(of(f), func(name string) bool {
				return slices.ContainsFunc(wanted, func(p *regexp.Regexp) bool { return p.MatchString(name) })
			})
		}, nil
	}
}

// isPattern is what a domain name with * is made of.
var isPattern = regexp.MustCompile(`^[-a-z0-9_.*]+$`)

// named is a namespace and the beginning of a name; what is empty is anything.
type named struct{ namespace, prefix string }

// readNames reads names of the form namespace/name, of which each half may be empty. A name without a
// slash is in the namespace default.
func readNames(list []string) (wanted []named, err error) {
	for _, text := range list {
		namespace, prefix, both := strings.Cut(text, "/")
		switch {
		case text == "":
			return nil, errors.New("a name is empty: write namespace/name, namespace/ or /name")
		case !both:
			namespace, prefix = "default", text
		}
		wanted = append(wanted, named{namespace, prefix})
	}
	return wanted, nil
}

func (n named) match(namespace, name string) bool {
	return (n.namespace == "" || n.namespace == namespace) && strings.HasPrefix(name, n.prefix)
}

// names is a field that lists pods.
func names(list func(*flowpb.FlowFilter) []string, of side) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		wanted, err := readNames(list(filter))
		return func(f *flowpb.Flow) bool {
			e := of(f)
			return e.GetPodName() != "" && slices.ContainsFunc(wanted, func(n named) bool { return n.match(e.GetNamespace(), e.GetPodName()) })
		}, err
	}
}

func services(filter *flowpb.FlowFilter) (match, error) {
	wanted, err := readNames(filter.GetDestinationService())
	return func(f *flowpb.Flow) bool {
		s := f.GetDestinationService()
		return s.GetName() != "" && slices.ContainsFunc(wanted, func(n named) bool { return n.match(s.GetNamespace(), s.GetName()) })
	}, err
}

// selectors is a field that lists label selectors, such as "app=web", "k8s:app in (web, db)" or
// "reserved:world".
func selectors(list func(*flowpb.FlowFilter) []string, of side) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		var wanted []labels.Selector
		for _, text := range list(filter) {
			selector, err := labels.Parse(withSources(text))
			if err != nil {
				return nil, fmt.Errorf("%q is no label selector: %w", text, err)
			}
			wanted = append(wanted, selector)
		}
		return func(f *flowpb.Flow) bool {
			has := ciliumLabels(of(f).GetLabels())
			return slices.ContainsFunc(wanted, func(s labels.Selector) bool { return s.Matches(has) })
		}, nil
	}
}

// withSources has each key of a selector begin with its source and a dot, as ciliumLabels has them: a colon
// cannot be part of a key. A key without a source is of any.
func withSources(selector string) string {
	var out strings.Builder
	for rest := selector; rest != ""; {
		begin := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune(" \t!", r) })
		if begin < 0 {
			out.WriteString(rest)
			break
		}
		out.WriteString(rest[:begin])
		rest = rest[begin:]
		end := strings.IndexAny(rest, " \t=!<>,")
		if end < 0 {
			end = len(rest)
		}
		key := rest[:end]
		if source, name, has := strings.Cut(key, ":"); has {
			key = source + "." + name
		} else if key != "" {
			key = "any." + key
		}
		out.WriteString(key)
		end, begin = end+requirement(rest[end:]), end
		out.WriteString(rest[begin:end])
		rest = rest[end:]
	}
	return out.String()
}

// requirement is how long the rest of a selector's requirement is, with the comma that ends it. Commas in
// parentheses end none.
func requirement(text string) int {
	depth := 0
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth <= 0:
			return i + 1
		}
	}
	return len(text)
}

// workloads is a field that lists workloads; what of one is empty is anything.
func workloads(list func(*flowpb.FlowFilter) []*flowpb.Workload, of side) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		wanted := list(filter)
		return func(f *flowpb.Flow) bool {
			return slices.ContainsFunc(of(f).GetWorkloads(), func(has *flowpb.Workload) bool {
				return slices.ContainsFunc(wanted, func(w *flowpb.Workload) bool {
					return (w.GetName() == "" || w.GetName() == has.GetName()) && (w.GetKind() == "" || w.GetKind() == has.GetKind())
				})
			})
		}, nil
	}
}

// clusters is a field that lists clusters' names. podfence knows of one, which has no name.
func clusters(list func(*flowpb.FlowFilter) []string, of side) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		if !slices.Contains(list(filter), cluster) {
			return nil, nil
		}
		return func(f *flowpb.Flow) bool { return of(f).GetClusterName() == cluster }, nil
	}
}

func identities(list func(*flowpb.FlowFilter) []uint32, of side) func(*flowpb.FlowFilter) (match, error) {
	return oneOf(list, func(f *flowpb.Flow) uint32 { return of(f).GetIdentity() })
}

// ports is a field that lists ports, by number.
func ports(list func(*flowpb.FlowFilter) []string, of func(*flowpb.Layer4) (uint32, bool)) func(*flowpb.FlowFilter) (match, error) {
	return func(filter *flowpb.FlowFilter) (match, error) {
		var wanted []uint32
		for _, text := range list(filter) {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%q is no port: it must be a number from 0 to 65535", text)
			}
			wanted = append(wanted, uint32(port))
		}
		return func(f *flowpb.Flow) bool { port, has := of(f.GetL4()); return has && slices.Contains(wanted, port) }, nil
	}
}

func sourcePort(l *flowpb.Layer4) (uint32, bool)      { from, _, has := portsOf(l); return from, has }
func destinationPort(l *flowpb.Layer4) (uint32, bool) { _, to, has := portsOf(l); return to, has }

// portsOf are the ports of a protocol that has ports.
func portsOf(l *flowpb.Layer4) (from, to uint32, has bool) {
	switch p := l.GetProtocol().(type) {
	case *flowpb.Layer4_TCP:
		return p.TCP.GetSourcePort(), p.TCP.GetDestinationPort(), true
	case *flowpb.Layer4_UDP:
		return p.UDP.GetSourcePort(), p.UDP.GetDestinationPort(), true
	case *flowpb.Layer4_SCTP:
		return p.SCTP.GetSourcePort(), p.SCTP.GetDestinationPort(), true
	}
	return 0, 0, false
}

// verdicts matches what podfence has: a packet is dropped or goes on, or goes on and would be dropped with staged
// policies in force.
func verdicts(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetVerdict()
	ours := []flowpb.Verdict{flowpb.Verdict_DROPPED, flowpb.Verdict_FORWARDED, flowpb.Verdict_AUDIT}
	if !slices.ContainsFunc(wanted, func(v flowpb.Verdict) bool { return slices.Contains(ours, v) }) {
		return nil, nil
	}
	return func(f *flowpb.Flow) bool { return slices.Contains(wanted, f.GetVerdict()) }, nil
}

// dropReasons matches denials. Of Hubble's reasons, podfence has those that its own are said by.
func dropReasons(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetDropReasonDesc()
	for _, has := range reasons {
		if slices.Contains(wanted, has) {
			return func(f *flowpb.Flow) bool {
				return f.GetVerdict() == flowpb.Verdict_DROPPED && slices.Contains(wanted, f.GetDropReasonDesc())
			}, nil
		}
	}
	return nil, nil
}

// eventTypes matches types of events; 0 is any.
func eventTypes(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetEventType()
	if !slices.ContainsFunc(wanted, func(e *flowpb.EventTypeFilter) bool {
		return slices.Contains([]int32{0, eventDrop, eventTrace, eventPolicyVerdict}, e.GetType())
	}) {
		return nil, nil
	}
	return func(f *flowpb.Flow) bool {
		has := f.GetEventType()
		return slices.ContainsFunc(wanted, func(e *flowpb.EventTypeFilter) bool {
			return (e.GetType() == 0 || e.GetType() == has.GetType()) && (!e.GetMatchSubType() || e.GetSubType() == has.GetSubType())
		})
	}, nil
}

func protocols(filter *flowpb.FlowFilter) (match, error) {
	has := map[string]func(*flowpb.Layer4) bool{
		"tcp":    func(l *flowpb.Layer4) bool { return l.GetTCP() != nil },
		"udp":    func(l *flowpb.Layer4) bool { return l.GetUDP() != nil },
		"sctp":   func(l *flowpb.Layer4) bool { return l.GetSCTP() != nil },
		"icmp":   func(l *flowpb.Layer4) bool { return l.GetICMPv4() != nil || l.GetICMPv6() != nil },
		"icmpv4": func(l *flowpb.Layer4) bool { return l.GetICMPv4() != nil },
		"icmpv6": func(l *flowpb.Layer4) bool { return l.GetICMPv6() != nil },
	}
	var wanted []func(*flowpb.Layer4) bool
	for _, name := range filter.GetProtocol() {
		name = strings.ToLower(name)
		if is := has[name]; is != nil {
			wanted = append(wanted, is)
		} else if !slices.Contains([]string{"vrrp", "igmp", "dns", "http"}, name) {
			return nil, fmt.Errorf("%q is no protocol: write tcp, udp, sctp, icmp, icmpv4 or icmpv6", name)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	return func(f *flowpb.Flow) bool {
		return slices.ContainsFunc(wanted, func(is func(*flowpb.Layer4) bool) bool { return is(f.GetL4()) })
	}, nil
}

// replies matches replies, or what is none. Of a denial for which this is not known, it is taken to be
// none, as Hubble's agent does for the UI.
func replies(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetReply()
	return func(f *flowpb.Flow) bool {
		known := f.GetIsReply() != nil || f.GetVerdict() == flowpb.Verdict_DROPPED
		return known && slices.Contains(wanted, f.GetIsReply().GetValue())
	}, nil
}

// flagSets matches packets of TCP that have all flags of one of the sets, and maybe others.
func flagSets(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetTcpFlags()
	return func(f *flowpb.Flow) bool {
		has := f.GetL4().GetTCP().GetFlags()
		return has != nil && slices.ContainsFunc(wanted, func(w *flowpb.TCPFlags) bool {
			return !(w.GetFIN() && !has.GetFIN() || w.GetSYN() && !has.GetSYN() || w.GetRST() && !has.GetRST() || w.GetPSH() && !has.GetPSH() || w.GetACK() && !has.GetACK() ||
				w.GetURG() && !has.GetURG() || w.GetECE() && !has.GetECE() || w.GetCWR() && !has.GetCWR() || w.GetNS() && !has.GetNS())
		})
	}, nil
}

// nodeNames matches patterns of nodes' names, such as "node-*", or "default/node-1" with the cluster's.
func nodeNames(filter *flowpb.FlowFilter) (match, error) {
	var wanted []string
	for _, text := range filter.GetNodeName() {
		pattern := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(text), "."))
		if pattern == "" || strings.Count(pattern, "/") > 1 || strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyz0123456789-_./*") != "" {
			return nil, fmt.Errorf("%q is no pattern of a node's name: write letters, digits, - and dots, and * for any of them", text)
		}
		of, node, both := strings.Cut(pattern, "/")
		if !both {
			of, node = "", pattern
		}
		if is, _ := path.Match(of, cluster); of != "" && !is {
			continue
		}
		if node == "" {
			node = "*"
		}
		wanted = append(wanted, node)
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	return func(f *flowpb.Flow) bool {
		return slices.ContainsFunc(wanted, func(pattern string) bool { is, _ := path.Match(pattern, f.GetNodeName()); return is })
	}, nil
}

func ipVersions(filter *flowpb.FlowFilter) (match, error) {
	wanted := filter.GetIpVersion()
	return func(f *flowpb.Flow) bool { return slices.Contains(wanted, f.GetIP().GetIpVersion()) }, nil
}
