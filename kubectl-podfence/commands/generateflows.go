package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain/generate"
)

// keptLeast is of how many connections of one kind flows are kept at least; of more, they are counted alone. A kind
// is the same pods or addresses at both ends, and the same port and Service. So memory does not grow with the
// time of observing, and whether a kind is rare is told by what is kept.
const keptLeast = 100

// seenFlows collects flows. It is a flowSink.
type seenFlows struct {
	generate.Seen
	most  int
	kinds map[flowKind]map[flowTuple]bool
}

// flowKind is what flows of one kind have in common.
type flowKind struct {
	source, destination, service, protocol string
	port                                   uint16
}

// flowTuple is a connection.
type flowTuple struct {
	source, destination netip.AddrPort
}

func newSeen(rare int) *seenFlows {
	return &seenFlows{Seen: generate.Seen{Left: map[generate.Reason]int{}}, most: max(keptLeast, rare), kinds: map[flowKind]map[flowTuple]bool{}}
}

// write takes a flow. What is denied is counted alone.
func (s *seenFlows) write(f *flows.Flow) error {
	if f.Verdict == flows.Denied || f.Verdict == flows.WouldAllow {
		s.Left[generate.Denied]++
		return nil
	}
	kind := flowKind{source: endText(&f.Source), destination: endText(&f.Destination), protocol: f.Protocol, port: f.Destination.Port}
	if f.Asked != nil {
		kind.service = f.Asked.Namespace + "/" + f.Asked.Service
	}
	at := flowTuple{netip.AddrPortFrom(f.Source.IP, f.Source.Port), netip.AddrPortFrom(f.Destination.IP, f.Destination.Port)}
	of := s.kinds[kind]
	switch {
	case of == nil:
		s.kinds[kind] = map[flowTuple]bool{at: true}
	case of[at]:
	case len(of) >= s.most:
		s.Left[generate.Repeated]++
		return nil
	default:
		of[at] = true
	}
	s.Flows = append(s.Flows, f)
	return nil
}

// endText is the same for the same pod of one family, node or address.
func endText(e *flows.Endpoint) string {
	return e.IP.String() + " " + e.Namespace + "/" + e.Pod + " " + e.Node
}

// readAll reads files.
func (s *seenFlows) readAll(files []string, stdin io.Reader) error {
	for _, name := range files {
		if err := s.readFile(name, stdin); err != nil {
			return err
		}
	}
	return nil
}

func (s *seenFlows) readFile(name string, stdin io.Reader) error {
	if name == "-" {
		return s.read("standard input", stdin)
	}
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading flows: %w", err)
	}
	defer file.Close()
	return s.read(name, file)
}

// read reads values of JSON one after another, as they are in lines.
func (s *seenFlows) read(name string, from io.Reader) error {
	decoder := json.NewDecoder(from)
	for n := 1; ; n++ {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.value(name, value)
		}
		if err != nil {
			return fmt.Errorf("reading flows: %s, flow %d: %w", name, n, err)
		}
	}
}

// value takes a flow of podfence or Hubble, or what either says beside its flows.
func (s *seenFlows) value(file string, text json.RawMessage) error {
	var has struct {
		Flow       *hubbleFlow      `json:"flow"`
		IP         *json.RawMessage `json:"IP"`
		NodeStatus *json.RawMessage `json:"node_status"`
		Lost       *struct {
			Number json.Number `json:"num_events_lost"`
		} `json:"lost_events"`
		Missed  uint64 `json:"missed"`
		Verdict string `json:"verdict"`
	}
	if err := json.Unmarshal(text, &has); err != nil {
		return err
	}
	switch {
	case has.Flow != nil:
		return s.hubble(has.Flow)
	case has.NodeStatus != nil:
		return nil
	case has.Lost != nil:
		s.Missing = append(s.Missing, fmt.Sprintf("%s flows that Hubble has lost, as %s says", has.Lost.Number, file))
		return nil
	case has.Missed > 0:
		s.Missing = append(s.Missing, fmt.Sprintf("%d flows that an agent has forgotten, as %s says", has.Missed, file))
		return nil
	case has.Verdict == "":
		return errors.New("it has no verdict: flows are read as kubectl podfence observe -o json and hubble observe -o jsonpb print them")
	case has.IP != nil || has.Verdict == strings.ToUpper(has.Verdict):
		f := &hubbleFlow{}
		if err := json.Unmarshal(text, f); err != nil {
			return err
		}
		return s.hubble(f)
	}
	f, _, err := flows.ParseLine(text)
	if err != nil {
		return err
	}
	return s.write(f)
}

// hubbleFlow is a flow as hubble observe -o jsonpb has it (flow.proto of Cilium), as far as it is read.
type hubbleFlow struct {
	Time    time.Time `json:"time"`
	Verdict string    `json:"verdict"`
	IP      struct {
		Source      netip.Addr `json:"source"`
		Destination netip.Addr `json:"destination"`
	} `json:"IP"`
	L4 struct {
		TCP, UDP, SCTP *hubblePorts
		ICMPv4, ICMPv6 *struct {
			Type uint8 `json:"type"`
		}
	} `json:"l4"`
	Source      hubbleEndpoint `json:"source"`
	Destination hubbleEndpoint `json:"destination"`
	NodeName    string         `json:"node_name"`
	IsReply     *bool          `json:"is_reply"`
	Service     *struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"destination_service"`
}

type hubblePorts struct {
	Source      uint16 `json:"source_port"`
	Destination uint16 `json:"destination_port"`
	Flags       struct {
		SYN, ACK bool
	} `json:"flags"`
}

type hubbleEndpoint struct {
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod_name"`
	Labels    []string `json:"labels"`
	Workloads []struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
	} `json:"workloads"`
}

// hubble takes a flow of Hubble's.
func (s *seenFlows) hubble(h *hubbleFlow) error {
	f := &flows.Flow{Time: h.Time, Node: h.NodeName[strings.LastIndex(h.NodeName, "/")+1:]} // "cluster/node"
	switch h.Verdict {
	case "FORWARDED", "REDIRECTED", "AUDIT": // an audited one passes, and would not if its policy were enforced
		f.Verdict = flows.Allowed
	case "DROPPED", "ERROR":
		f.Verdict = flows.Denied
		return s.write(f)
	default:
		s.Left[generate.UnknownVerdict]++
		return nil
	}
	switch begun := h.begun(); {
	case begun == nil:
		s.Left[generate.NoDirection]++
		return nil
	case !*begun:
		s.Left[generate.Reply]++
		return nil
	}
	f.Source, f.Destination = h.Source.endpoint(h.IP.Source, f.Node), h.Destination.endpoint(h.IP.Destination, f.Node)
	for protocol, ports := range map[string]*hubblePorts{"TCP": h.L4.TCP, "UDP": h.L4.UDP, "SCTP": h.L4.SCTP} {
		if ports != nil {
			f.Protocol, f.Source.Port, f.Destination.Port = protocol, ports.Source, ports.Destination
		}
	}
	switch {
	case h.L4.ICMPv4 != nil:
		f.Protocol, f.ICMPType = "ICMP", &h.L4.ICMPv4.Type
	case h.L4.ICMPv6 != nil:
		f.Protocol, f.ICMPType = "ICMPv6", &h.L4.ICMPv6.Type
	}
	if h.Service != nil && h.Service.Name != "" {
		f.Asked = &flows.Asked{Namespace: h.Service.Namespace, Service: h.Service.Name}
	}
	return s.write(f)
}

// begun reports whether the source has begun the connection; nil: nobody can tell. Hubble does not say so where
// connection tracking was not asked, but the first packet of TCP tells it.
func (h *hubbleFlow) begun() *bool {
	if h.IsReply != nil {
		begun := !*h.IsReply
		return &begun
	}
	if tcp := h.L4.TCP; tcp != nil && tcp.Flags.SYN {
		begun := !tcp.Flags.ACK
		return &begun
	}
	return nil
}

// endpoint is an end of a flow that a node has seen.
func (e *hubbleEndpoint) endpoint(ip netip.Addr, node string) flows.Endpoint {
	out := flows.Endpoint{IP: ip.Unmap(), Namespace: e.Namespace, Pod: e.Pod}
	for _, label := range e.Labels {
		key, value, _ := strings.Cut(strings.TrimPrefix(label, "k8s:"), "=")
		switch {
		case label == "reserved:host":
			out.Node = node
		case !strings.HasPrefix(label, "k8s:") || strings.HasPrefix(key, "io.kubernetes.pod.") || strings.HasPrefix(key, "io.cilium."):
		default:
			if out.Labels == nil {
				out.Labels = map[string]string{}
			}
			out.Labels[key] = value
		}
	}
	if len(e.Workloads) > 0 {
		out.Workload = &flows.Workload{Kind: e.Workloads[0].Kind, Name: e.Workloads[0].Name}
	}
	if out.Pod == "" {
		out.Namespace, out.Labels = "", nil
	}
	return out
}
