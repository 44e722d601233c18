package answers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/policy/packet"
)

// maxBody is how many bytes a question may have.
const maxBody = 4 << 10

// protocols are those that have names, by these, in lower case.
var protocols = map[string]packet.Protocol{
	"tcp": packet.TCP, "udp": packet.UDP, "sctp": packet.SCTP, "icmp": packet.ICMP, "icmpv6": packet.ICMPv6,
}

// echoRequests are the message types that are asked about if a question names none.
var echoRequests = map[packet.Protocol]uint8{packet.ICMP: 8, packet.ICMPv6: 128}

// hasPorts are the protocols that have ports: UDP-Lite (136) and DCCP (33) as well.
var hasPorts = map[packet.Protocol]bool{packet.TCP: true, packet.UDP: true, packet.SCTP: true, 33: true, 136: true}

// beginsFlow are the message types that begin a flow (valid_new in net/netfilter/nf_conntrack_proto_icmp.c and
// nf_conntrack_proto_icmpv6.c). Of others the kernel makes none: answers and errors without one are invalid, and
// neighbour and listener discovery is not tracked.
var beginsFlow = map[packet.Protocol]map[uint8]bool{
	packet.ICMP:   {8: true, 13: true, 15: true, 17: true},
	packet.ICMPv6: {128: true, 139: true},
}

// read reads a question: of a POST, in JSON, and of a GET, out of the query.
func read(w http.ResponseWriter, r *http.Request) (q answers.TraceQuestion, err error) {
	if r.Method != http.MethodPost {
		return fromQuery(r.URL.Query())
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields() // a part that is not understood would be left out of the answer
	if err := decoder.Decode(&q); err != nil {
		return q, fmt.Errorf("the question is not a TraceQuestion in JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return q, errors.New("there is more after the question: ask one at a time")
	}
	return q, nil
}

func fromQuery(query url.Values) (q answers.TraceQuestion, err error) {
	for name, values := range query {
		if len(values) != 1 {
			return q, fmt.Errorf("%q is given %d times: give it once", name, len(values))
		}
		value := values[0]
		var n uint64
		switch name {
		case "src":
			q.Src, err = netip.ParseAddr(value)
		case "dst":
			q.Dst, err = netip.ParseAddr(value)
		case "protocol":
			q.Protocol = value
		case "port":
			n, err = strconv.ParseUint(value, 10, 16)
			q.Port = uint16(n)
		case "icmpType":
			n, err = strconv.ParseUint(value, 10, 8)
			kind := uint8(n)
			q.ICMPType = &kind
		default:
			return q, fmt.Errorf("there is no parameter %q: there are src, dst, protocol, port and icmpType", name)
		}
		if err != nil {
			return q, fmt.Errorf("%s is %q: %w", name, value, err)
		}
	}
	return q, nil
}

// complete checks a question, fills in what it leaves out, and says which packet it is about.
func complete(q *answers.TraceQuestion) (p packet.Packet, err error) {
	q.Src, q.Dst = q.Src.Unmap(), q.Dst.Unmap()
	switch {
	case !q.Src.IsValid() || !q.Dst.IsValid():
		return p, errors.New("src and dst are needed: the addresses of a packet, after destination NAT")
	case q.Src.Is4() != q.Dst.Is4():
		return p, fmt.Errorf("src %s and dst %s are of two families", q.Src, q.Dst)
	case q.Src.Zone() != "" || q.Dst.Zone() != "":
		return p, errors.New("an address has a zone: give it without")
	}
	q.Protocol = strings.ToLower(q.Protocol)
	protocol, known := protocols[q.Protocol]
	if !known {
		n, err := strconv.ParseUint(q.Protocol, 10, 8)
		if err != nil {
			return p, fmt.Errorf("protocol is %q: it must be tcp, udp, sctp, icmp, icmpv6 or a number", q.Protocol)
		}
		protocol = packet.Protocol(n)
	}
	request, isICMP := echoRequests[protocol]
	switch {
	case isICMP && (protocol == packet.ICMP) != q.Src.Is4():
		return p, fmt.Errorf("protocol %s is not of the family of %s", q.Protocol, q.Src)
	case isICMP && q.Port != 0:
		return p, errors.New("ICMP has no ports: give icmpType")
	case isICMP && q.ICMPType != nil && !beginsFlow[protocol][*q.ICMPType]:
		return p, fmt.Errorf("no connection begins with type %d of %s: ask about a request, such as %d", *q.ICMPType, q.Protocol, request)
	case !isICMP && q.ICMPType != nil:
		return p, fmt.Errorf("icmpType is given, and the protocol is %s", q.Protocol)
	case hasPorts[protocol] && q.Port == 0:
		return p, fmt.Errorf("protocol %s has ports: give one", q.Protocol)
	case !hasPorts[protocol] && q.Port != 0:
		return p, fmt.Errorf("protocol %s has no ports, and port is %d", q.Protocol, q.Port)
	case isICMP && q.ICMPType == nil:
		q.ICMPType = &request
	}
	// Nothing that is routed has a hop limit by which it would be taken for neighbour discovery.
	p = packet.Packet{Src: q.Src, Dst: q.Dst, Protocol: protocol, DstPort: q.Port, HopLimit: 64}
	if isICMP {
		p.ICMPType = *q.ICMPType
	}
	return p, nil
}
