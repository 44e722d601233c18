package flows

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Filter says which flows are meant: those for which all of its fields hold. A field that is empty holds for
// all, and a list if one of its values does.
type Filter struct {
	Verdicts  []Verdict
	Direction Direction
	// Namespaces: the pod at one of the ends is in it.
	Namespaces []string
	// Ends are meant at either end, From where the flow comes from, and To where it goes to or what it asked
	// for.
	Ends, From, To []End
	// Ports are those of the destination, or of what was asked for.
	Ports []uint16
	// Protocols are as in Flow, in any case.
	Protocols []string
	Reasons   []Reason
	// Policies are names of policies that have decided, NAMESPACE/NAME or NAME for those of any namespace
	// and of none.
	Policies []string
}

// The parameters that a filter is written as. pod and ip are the Ends, and each may be given several times.
const (
	verdictParameter   = "verdict"
	directionParameter = "direction"
	namespaceParameter = "namespace"
	podParameter       = "pod"
	ipParameter        = "ip"
	fromParameter      = "from"
	toParameter        = "to"
	portParameter      = "port"
	protocolParameter  = "protocol"
	reasonParameter    = "reason"
	policyParameter    = "policy"
)

// maxValues is how many values a parameter may have: each flow is held against all of them.
const maxValues = 256

// Match reports whether a flow is meant.
func (f *Filter) Match(flow *Flow) bool {
	port, asked := flow.Destination.Port, flow.Destination.Port
	if flow.Asked != nil {
		asked = flow.Asked.Port
	}
	return one(f.Verdicts, func(v Verdict) bool { return v == flow.Verdict }) &&
		(f.Direction == "" || f.Direction == flow.Direction) &&
		one(f.Namespaces, func(n string) bool { return n == flow.Source.Namespace || n == flow.Destination.Namespace }) &&
		one(f.Ends, func(e End) bool { return e.isSource(flow) || e.isDestination(flow) }) &&
		one(f.From, func(e End) bool { return e.isSource(flow) }) &&
		one(f.To, func(e End) bool { return e.isDestination(flow) }) &&
		one(f.Ports, func(p uint16) bool { return p == port || p == asked }) &&
		one(f.Protocols, func(p string) bool { return strings.EqualFold(p, flow.Protocol) }) &&
		one(f.Reasons, func(r Reason) bool { return r == flow.Reason }) &&
		one(f.Policies, func(name string) bool {
			return slices.ContainsFunc(flow.Policies, func(p Policy) bool { return name == p.Name || name == p.Namespace+"/"+p.Name })
		})
}

// one reports whether a list is empty, or one of its values holds.
func one[T any](values []T, holds func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, holds)
}

// add adds the filter's parameters.
func (f *Filter) add(to url.Values) {
	for _, v := range f.Verdicts {
		to.Add(verdictParameter, string(v))
	}
	if f.Direction != "" {
		to.Add(directionParameter, string(f.Direction))
	}
	for _, n := range f.Namespaces {
		to.Add(namespaceParameter, n)
	}
	for _, e := range f.Ends {
		if e.Network.IsValid() {
			to.Add(ipParameter, e.String())
		} else {
			to.Add(podParameter, e.String())
		}
	}
	for _, e := range f.From {
		to.Add(fromParameter, e.String())
	}
	for _, e := range f.To {
		to.Add(toParameter, e.String())
	}
	for _, p := range f.Ports {
		to.Add(portParameter, strconv.Itoa(int(p)))
	}
	for _, p := range f.Protocols {
		to.Add(protocolParameter, p)
	}
	for _, r := range f.Reasons {
		to.Add(reasonParameter, string(r))
	}
	for _, p := range f.Policies {
		to.Add(policyParameter, p)
	}
}

// read reads a parameter into the filter, and reports whether it is one of a filter's.
func (f *Filter) read(name string, values []string) (known bool, err error) {
	if len(values) > maxValues {
		return true, fmt.Errorf("%s is given %d times: it may be given %d times", name, len(values), maxValues)
	}
	switch name {
	case verdictParameter:
		f.Verdicts, err = each(values, parseVerdict)
	case directionParameter:
		f.Direction, err = oneOf(values, Ingress, Egress)
	case namespaceParameter:
		f.Namespaces, err = each(values, asGiven)
	case podParameter, ipParameter:
		var ends []End
		ends, err = each(values, func(text string) (End, error) {
			e, err := ParseEnd(text)
			if err == nil && e.Network.IsValid() != (name == ipParameter) {
				err = fmt.Errorf("%q: pods and what has pods are given by %s, addresses and networks by %s", text, podParameter, ipParameter)
			}
			return e, err
		})
		f.Ends = append(f.Ends, ends...)
	case fromParameter:
		f.From, err = each(values, ParseEnd)
	case toParameter:
		f.To, err = each(values, ParseEnd)
	case portParameter:
		f.Ports, err = each(values, parsePort)
	case protocolParameter:
		f.Protocols, err = each(values, asGiven)
	case reasonParameter:
		f.Reasons, err = each(values, parseReason)
	case policyParameter:
		f.Policies, err = each(values, asGiven)
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}

// oneOf is the only value, which is one of those that are given.
func oneOf[T ~string](values []string, of ...T) (value T, err error) {
	if len(values) != 1 || !slices.Contains(of, T(values[0])) {
		return "", fmt.Errorf("%q: it must be one of %q", values, of)
	}
	return T(values[0]), nil
}

func each[T any](values []string, parse func(string) (T, error)) (all []T, err error) {
	for _, text := range values {
		value, err := parse(text)
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

func asGiven(text string) (string, error) {
	if text == "" {
		return "", errors.New("it is empty")
	}
	return text, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is no port: it must be a number from 1 to 65535", text)
	}
	return uint16(port), nil
}

func parseVerdict(text string) (Verdict, error) {
	if !slices.Contains(Verdicts, Verdict(text)) {
		return "", fmt.Errorf("%q is no verdict: it must be one of %q", text, Verdicts)
	}
	return Verdict(text), nil
}

func parseReason(text string) (Reason, error) {
	if !slices.Contains(Reasons, Reason(text)) {
		return "", fmt.Errorf("%q is no reason: it must be one of %q", text, Reasons)
	}
	return Reason(text), nil
}
