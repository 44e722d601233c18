package policy

// maxSize is how many sets and rules of the kernel one policy may take. An object
// of the size that etcd takes could otherwise make hundreds of thousands of them,
// and the kernel finds a set by asking one after the other (nft_set_lookup in
// net/netfilter/nf_tables_api.c): 30,000 sets, of a policy of 250 kB, took it two
// minutes, in which nothing else could change. What is left is a second or two.
const maxSize = 4000

// size follows how much of the kernel a policy's rules take.
type size struct {
	taken     int
	selectors map[Selector]struct{}
	names     map[NamedPort]struct{}
}

// fits takes a rule in, and reports whether there is room for it. It counts a set
// for each family of what may have both.
func (s *size) fits(r *Rule) bool {
	sets, peers, ports := 0, len(r.Peers), len(r.NamedPorts)
	for _, selector := range r.Peers {
		if _, known := s.selectors[selector]; !known {
			sets += 2
		}
	}
	for _, name := range r.NamedPorts {
		if _, known := s.names[name]; !known {
			sets += 2
		}
	}
	if len(r.Blocks) > 0 {
		sets, peers = sets+2, peers+1
	}
	switch n := len(r.Ports); {
	case n == 0:
	case SinglePorts(r.Ports):
		sets, ports = sets+1, ports+1
	default:
		chunks := 1 + (n-1)/RangesPerSet
		sets, ports = sets+chunks, ports+chunks
	}
	// Each peer is paired with each way to say the port.
	total := sets + max(peers, 1)*max(ports, 1)
	if s.taken+total > maxSize {
		return false
	}
	s.taken += total
	for _, selector := range r.Peers {
		s.selectors[selector] = struct{}{}
	}
	for _, name := range r.NamedPorts {
		s.names[name] = struct{}{}
	}
	return true
}
