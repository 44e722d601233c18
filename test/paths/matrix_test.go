package paths_test

import (
	"slices"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// way is where a frame goes: the scope of its destination, at the hardware address.
type way struct {
	dst scope
	mac station
}

// The ways to an actor, and to groups. A group's hardware address is its own, or, so that
// one receiver only gets what is for all, the receiver's or the node's.
var (
	waysTo6 = []way{
		{global, router}, {global, theirs}, {global, everybody}, {global, group},
		{linkLocal, theirs}, {linkLocal, router}, {linkLocal, group},
		{solicited, group}, {solicited, theirs}, {allNodes, theirs}, {allRouters, theirs},
	}
	waysToAll6 = []way{
		{allNodes, group}, {allRouters, group}, {listeners, group}, {multicastDNS, group}, {site, group},
		{allNodes, everybody}, {allNodes, router}, {unspecified, router}, {unspecified, everybody},
	}
	waysTo4 = []way{
		{global, router}, {global, theirs}, {global, everybody}, {global, group},
		{linkLocal, theirs}, {linkLocal, router}, {allNodes, theirs}, {broadcast, theirs}, {subnetBroadcast, theirs},
	}
	waysToAll4 = []way{
		{allNodes, group}, {multicastDNS, group}, {site, group}, {listeners, group},
		{broadcast, everybody}, {subnetBroadcast, everybody}, {allNodes, everybody}, {unspecified, router}, {unspecified, everybody},
		{allNodes, router}, {broadcast, router}, {subnetBroadcast, router},
	}
)

// What a part of the frames has all of, and the rest a few of.
var (
	known6        = []uint16{1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143}
	known4        = []uint16{0, 3, 5, 8, 9, 10, 11, 12, 13}
	knownProtocol = []uint16{0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 89, 103, 132, 135, 136, 255}
	ports         = []uint16{53, 67, 68, 546, 547, serverPort, 5353, 8472}
	// Spanning tree, IPX and NetBIOS are 802.3 frames by their SAP.
	ethertypes = []uint16{
		0x42, 0xe0, 0xf0, 0x0805, 0x0842, 0x1234, 0x22f3, 0x6558, 0x8035, 0x80f3, 0x8137, 0x8863, 0x8864, 0x8847, 0x8848,
		0x888e, 0x88b5, 0x88cc, 0x88e5, 0x88f7, 0x894f, 0x9000, 0xffff, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8,
	}
	hops = []uint8{1, 2, 64, 254, 255}
)

// every is how many frames of the rest there are to one that a part has.
const every = 127

// matrix makes the frames of a scene.
type matrix struct {
	scene  *scene
	whole  bool
	from   stage.ActorID
	frames []frame
	rest   int
}

func (s *scene) matrix(whole bool) []frame {
	m := &matrix{scene: s, whole: whole}
	for _, from := range s.Present() {
		m.from = from
		// A node always reaches its pods: that takes no whole matrix to see.
		m.whole = whole && from != stage.TheNode
		m.messages6()
		m.messages4()
		m.wrapped()
		m.others()
	}
	for _, from := range s.Present() {
		m.from = from
		m.beginnings()
	}
	for _, from := range s.Present() {
		m.from = from
		m.answers()
	}
	return m.frames
}

// beginnings may begin a flow, to whatever hardware address they go. What answers it is
// no flow of its own, so there must be none if the first frame is dropped.
func (m *matrix) beginnings() {
	for _, w := range []lab.Wrap{lab.Plain, lab.Tag0, lab.Tag5, lab.PPPoE} {
		m.towards(frame{class: udp4, wrap: w, number: serverPort, hop: 64, src: global}, true, waysTo4, waysToAll4)
		m.towards(frame{class: udp6, wrap: w, number: serverPort, hop: 64, src: global}, true, waysTo6, waysToAll6)
	}
}

func (m *matrix) answers() {
	m.towards(frame{class: answer4, number: clientPort, hop: 64, src: global}, true, waysTo4, nil)
	m.towards(frame{class: answer6, number: clientPort, hop: 64, src: global}, true, waysTo6, nil)
}

// add adds a frame, if the scene has its addresses; of the rest, some only.
func (m *matrix) add(f frame, known bool) {
	f.from = m.from
	if m.rest++; !m.whole && !known && m.rest%every != 0 {
		return
	}
	if f.class != ethertype && (!m.scene.source(f).IsValid() || !m.scene.destination(f).IsValid()) {
		return
	}
	m.frames = append(m.frames, f)
}

// towards has f go all ways.
func (m *matrix) towards(f frame, known bool, single, all []way) {
	for _, w := range all {
		f.to, f.dst, f.mac = stage.Nobody, w.dst, w.mac
		m.add(f, known)
	}
	for _, to := range m.scene.Present() {
		if to == m.from {
			continue
		}
		for _, w := range single {
			f.to, f.dst, f.mac = to, w.dst, w.mac
			m.add(f, known)
		}
		if to == stage.TheNode {
			f.to, f.dst, f.mac = to, internal, router
			m.add(f, known)
		}
	}
}

// pretences are the others' addresses as one's own.
func (m *matrix) pretences() []scope {
	all := []scope{remote}
	for _, a := range m.scene.Present() {
		if a != m.from {
			all = append(all, pretended+scope(a))
		}
	}
	return all
}

var own = []scope{global, linkLocal, unspecified, allNodes}

func (m *matrix) messages6() {
	for number := range uint16(256) {
		known := slices.Contains(known6, number)
		for _, hop := range hops {
			for _, src := range own {
				m.towards(frame{class: icmp6, number: number, hop: hop, src: src}, known && (hop == 1 || hop == 255), waysTo6, waysToAll6)
			}
		}
		for _, src := range m.pretences() {
			m.towards(frame{class: icmp6, number: number, hop: 255, src: src}, false, waysTo6, waysToAll6)
		}
		for _, src := range slices.Concat(own, m.pretences()) {
			m.towards(frame{class: protocol6, number: number, hop: 64, src: src}, false, waysTo6, waysToAll6)
		}
		m.towards(frame{class: protocol6, number: number, hop: 64, src: global}, slices.Contains(knownProtocol, number), waysTo6, waysToAll6)
	}
	for _, port := range ports {
		for _, src := range slices.Concat(own, m.pretences()) {
			m.towards(frame{class: udp6, number: port, hop: 64, src: src}, port == serverPort, waysTo6, waysToAll6)
		}
	}
}

func (m *matrix) messages4() {
	for number := range uint16(256) {
		for _, src := range slices.Concat(own, m.pretences()) {
			m.towards(frame{class: icmp4, number: number, hop: 64, src: src}, slices.Contains(known4, number) && src == global, waysTo4, waysToAll4)
			m.towards(frame{class: protocol4, number: number, hop: 64, src: src}, slices.Contains(knownProtocol, number) && src == global, waysTo4, waysToAll4)
		}
		for _, hop := range []uint8{1, 255} {
			m.towards(frame{class: icmp4, number: number, hop: hop, src: global}, false, waysTo4, waysToAll4)
		}
	}
	for _, port := range ports {
		for _, src := range slices.Concat(own, m.pretences()) {
			m.towards(frame{class: udp4, number: port, hop: 64, src: src}, port == serverPort, waysTo4, waysToAll4)
		}
	}
}

// wrapped are packets inside of something, or behind it.
func (m *matrix) wrapped() {
	for w := lab.Tag0; w <= lab.Destination; w++ {
		for _, src := range []scope{global, linkLocal} {
			for _, number := range known6 {
				for _, hop := range []uint8{1, 255} {
					m.towards(frame{class: icmp6, wrap: w, number: number, hop: hop, src: src}, number == 135 || w == lab.HopByHop && hop == 1, waysTo6, waysToAll6)
				}
			}
			m.towards(frame{class: udp6, wrap: w, number: serverPort, hop: 64, src: src}, true, waysTo6, waysToAll6)
			if w < lab.HopByHop {
				m.towards(frame{class: udp4, wrap: w, number: serverPort, hop: 64, src: src}, true, waysTo4, waysToAll4)
			}
		}
	}
}

// others are frames that no router takes on.
func (m *matrix) others() {
	arpWays := []way{{global, router}, {global, theirs}, {global, everybody}}
	for operation := range uint16(5) {
		for _, src := range slices.Concat([]scope{global, unspecified, linkLocal}, m.pretences()) {
			m.towards(frame{class: arp, number: operation, src: src}, true, arpWays, nil)
		}
	}
	stations := []way{{nowhere, everybody}, {nowhere, group}, {nowhere, router}}
	for last := range station(16) {
		stations = append(stations, way{nowhere, reserved + last})
		for _, class := range []class{udp4, udp6} {
			for _, to := range m.scene.Present() {
				if to != m.from {
					m.add(frame{to: to, class: class, number: serverPort, hop: 64, src: global, dst: global, mac: reserved + last}, true)
				}
			}
		}
	}
	for _, number := range ethertypes {
		m.towards(frame{class: ethertype, number: number}, true, []way{{nowhere, theirs}}, stations)
	}
	// All others there are, and lengths of 802.3 frames by their SAP.
	for number := range uint16(0xffff) {
		if (number < 0x100 || number >= 0x600) && !slices.Contains(ethertypes, number) {
			m.towards(frame{class: ethertype, number: number}, number%every == 0, []way{{nowhere, theirs}}, stations[:1])
		}
	}
}
