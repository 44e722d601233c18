package nft

// Chain is a chain with its rules.
type Chain struct {
	Name string
	// Hook makes it a base chain; it is nil for other chains. The policy of a base chain is
	// accept: packets that no rule is for are not the table's business.
	Hook  *Hook
	Rules []Rule
}

// Hook is where a base chain is attached.
type Hook struct {
	// NAT makes it a chain of type nat, which sees only the first packet of a
	// flow; else it is of type filter.
	NAT   bool
	Point HookPoint
	// Base is what Priority is relative to, as in "priority filter - 10".
	Base     Base
	Priority int
}

// Base is a priority with a name. The family says what number it is.
type Base uint8

// The bases.
const (
	Filter Base = iota
	DstNAT
	SrcNAT
	Raw // family inet only
)

func (b Base) String() string {
	return [...]string{Filter: "filter", DstNAT: "dstnat", SrcNAT: "srcnat", Raw: "raw"}[b]
}

// numbers are the numbers of the named priorities: enum nf_ip_hook_priorities of
// include/uapi/linux/netfilter_ipv4.h, nf_br_hook_priorities of netfilter_bridge.h.
var numbers = map[Family]map[Base]int{
	Inet:   {Filter: 0, Raw: -300, DstNAT: -100, SrcNAT: 100},
	Bridge: {Filter: -200, DstNAT: -300, SrcNAT: 300},
}

// Number is the priority as a number, as the kernel has it in a table of the family. Chains with
// lower numbers run earlier. It is not known if the family has no such base.
func (h *Hook) Number(f Family) (number int, known bool) {
	number, known = numbers[f][h.Base]
	return number + h.Priority, known
}

// HookPoint is a netfilter hook.
type HookPoint uint8

// The hooks that podfence uses.
const (
	Forward HookPoint = iota
	Input
	Output
	Prerouting
	Postrouting
)

func (h HookPoint) String() string {
	return [...]string{Forward: "forward", Input: "input", Output: "output", Prerouting: "prerouting", Postrouting: "postrouting"}[h]
}
