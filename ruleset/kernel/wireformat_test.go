package kernel

// What follows says how netlink messages are laid out, as the kernel's headers say it and not as the code
// under test does: which attributes are numbers, and in which order their octets are. It has what podfence
// sends, and no more; whatever else comes up is an error.

// wireKind is how a value is laid out.
type wireKind uint8

const (
	wireNumber     wireKind = iota // in network order, whatever the machine: nla_get_be16, _be32, _be64; or one octet
	wireHost                       // in the order of the machine
	wireText                       // characters, with a zero behind them or without
	wireOctets                     // as packets have it, or of no order
	wireNested                     // attributes
	wireValue                      // what a register is compared or masked with: in the order of what is in the register
	wireExpression                 // attributes, the second of which depend on what the first one says
	wireUserData                   // nft's own: entries of one octet for the type, one for the length, and the value
)

// wireAttribute describes an attribute, or an entry of user data.
type wireAttribute struct {
	name string
	kind wireKind
	in   wireFormat
}

// wireFormat describes attributes by their number.
type wireFormat map[uint16]wireAttribute

// anyAttribute is for attributes whose number the kernel does not look at.
const anyAttribute = 0

func number(name string) wireAttribute { return wireAttribute{name: name} }
func host(name string) wireAttribute   { return wireAttribute{name: name, kind: wireHost} }
func text(name string) wireAttribute   { return wireAttribute{name: name, kind: wireText} }
func octets(name string) wireAttribute { return wireAttribute{name: name, kind: wireOctets} }
func value(name string) wireAttribute {
	return nested(name, wireFormat{1: {name: "VALUE", kind: wireValue}, 2: verdictFormat})
}
func nested(name string, in wireFormat) wireAttribute {
	return wireAttribute{name: name, kind: wireNested, in: in}
}
func userData(name string, in wireFormat) wireAttribute {
	return wireAttribute{name: name, kind: wireUserData, in: in}
}

// nf_tables (include/uapi/linux/netfilter/nf_tables.h; the policies of attributes and who reads them are in
// net/netfilter/nf_tables_api.c and nft_*.c).
var (
	verdictFormat    = nested("VERDICT", wireFormat{1: number("CODE"), 2: text("CHAIN")})
	expressionFormat = wireFormat{1: text("NAME"), 2: {name: "DATA"}}
	anExpression     = wireAttribute{name: "EXPRESSION", kind: wireExpression, in: expressionFormat}

	expressionFormats = map[string]wireFormat{
		"bitwise": {1: number("SREG"), 2: number("DREG"), 3: number("LEN"), 4: value("MASK"), 5: value("XOR")},
		"cmp":     {1: number("SREG"), 2: number("OP"), 3: value("DATA")},
		// In a limit of connections, and where packets are counted.
		"connlimit": {1: number("COUNT"), 2: number("FLAGS")},
		"counter":   {1: number("BYTES"), 2: number("PACKETS")},
		"ct":        {1: number("DREG"), 2: number("KEY"), 3: number("DIRECTION")},
		"dynset": {
			1: text("SET_NAME"), 2: number("SET_ID"), 3: number("OP"), 4: number("SREG_KEY"), 7: anExpression, 9: number("FLAGS"),
		},
		"exthdr":    {1: number("DREG"), 2: number("TYPE"), 3: number("OFFSET"), 4: number("LEN"), 5: number("FLAGS"), 6: number("OP")},
		"fib":       {1: number("DREG"), 2: number("RESULT"), 3: number("FLAGS")},
		"immediate": {1: number("DREG"), 2: value("DATA")},
		"limit":     {1: number("RATE"), 2: number("UNIT"), 3: number("BURST"), 4: number("TYPE"), 5: number("FLAGS")},
		"log":       {1: number("GROUP"), 2: text("PREFIX"), 3: number("SNAPLEN")},
		"lookup":    {1: text("SET"), 2: number("SREG"), 3: number("DREG"), 4: number("SET_ID"), 5: number("FLAGS")},
		"masq":      {1: number("FLAGS")},
		"meta":      {1: number("DREG"), 2: number("KEY")},
		"payload":   {1: number("DREG"), 2: number("BASE"), 3: number("OFFSET"), 4: number("LEN")},
		"queue":     {1: number("NUM"), 2: number("TOTAL"), 3: number("FLAGS")},
		"reject":    {1: number("TYPE"), 2: number("ICMP_CODE")},
	}

	tableFormat = wireFormat{1: text("NAME"), 2: number("FLAGS"), 7: number("OWNER")}
	chainFormat = wireFormat{
		1: text("TABLE"), 3: text("NAME"), 4: nested("HOOK", wireFormat{1: number("HOOKNUM"), 2: number("PRIORITY")}),
		5: number("POLICY"), 7: text("TYPE"), 10: number("FLAGS"),
	}
	ruleFormat = wireFormat{
		1: text("TABLE"), 2: text("CHAIN"), 4: nested("EXPRESSIONS", wireFormat{1: anExpression}),
		7: userData("USERDATA", wireFormat{0: text("COMMENT")}), // enum nftnl_udata_rule_types
		9: number("ID"),
	}
	// libnftnl puts numbers into user data in the order of the machine (nftnl_udata_put_u32 in src/udata.c).
	setFormat = wireFormat{
		1: text("TABLE"), 2: text("NAME"), 3: number("FLAGS"), 4: number("KEY_TYPE"), 5: number("KEY_LEN"), 6: number("DATA_TYPE"), 7: number("DATA_LEN"),
		9:  nested("DESC", wireFormat{1: number("SIZE"), 2: nested("CONCAT", wireFormat{1: nested("FIELD", wireFormat{1: number("LEN")})})}),
		10: number("ID"), 11: number("TIMEOUT"),
		13: userData("USERDATA", wireFormat{0: host("KEYBYTEORDER"), 2: host("MERGE_ELEMENTS"), 7: text("COMMENT")}), // enum nftnl_udata_set_types
	}
	// No key of podfence's sets is a number in the order of the machine: addresses, ports and Ethernet types
	// are as packets have them, and a link is its name.
	keyFormat      = wireFormat{1: octets("VALUE")}
	elementsFormat = wireFormat{
		1: text("TABLE"), 2: text("SET"), 4: number("SET_ID"),
		3: nested("ELEMENTS", wireFormat{anyAttribute: nested("ELEMENT", wireFormat{
			1: nested("KEY", keyFormat), 2: nested("DATA", wireFormat{2: verdictFormat}), 3: number("FLAGS"),
			6:  userData("USERDATA", wireFormat{0: text("COMMENT"), 1: host("FLAGS")}), // enum nftnl_udata_set_elem_types
			10: nested("KEY_END", keyFormat),
		})}),
	}
	batchFormat = wireFormat{1: number("GENID")}
)

// registerKinds are what meta and ct put into a register (nft_meta_get_eval in net/netfilter/nft_meta.c,
// nft_ct_get_eval in nft_ct.c), by key: wireHost for a whole register that holds a number, wireOctets for
// names, single octets, and what comes from a packet. What payload and exthdr load is as the packet has it.
// fib stores a whole register, or since Linux 6.7 one octet for whether there is a route: podfence compares
// with zero, which is the same.
var registerKinds = map[string]map[uint64]wireKind{
	"meta": {
		1: wireOctets, 6: wireOctets, 7: wireOctets, // PROTOCOL, IIFNAME, OIFNAME
		15: wireOctets, 16: wireOctets, 19: wireOctets, // NFPROTO, L4PROTO, PKTTYPE
		21: wireHost, // IIFGROUP
	},
	"ct": {
		0: wireHost, 2: wireHost, 3: wireHost, // STATE, STATUS, MARK
		1:  wireOctets,                 // DIRECTION
		19: wireOctets, 21: wireOctets, // SRC_IP, SRC_IP6
	},
	"fib": {1: wireHost},
}

// ctnetlink (nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c, where the filter's flags are
// nla_get_u32 and all else is in network order), nfnetlink_log.h, rtnetlink.h and if_link.h.
var (
	tupleFormat = wireFormat{
		1: nested("IP", wireFormat{1: octets("V4_SRC"), 2: octets("V4_DST"), 3: octets("V6_SRC"), 4: octets("V6_DST")}),
		2: nested("PROTO", wireFormat{1: number("NUM"), 2: number("SRC_PORT"), 3: number("DST_PORT"), 5: number("ICMP_TYPE")}),
	}
	flowFormat = wireFormat{
		1: nested("TUPLE_ORIG", tupleFormat), 2: nested("TUPLE_REPLY", tupleFormat), 8: number("MARK"), 18: number("ZONE"), 21: number("MARK_MASK"),
		25: nested("FILTER", wireFormat{1: host("ORIG_FLAGS"), 2: host("REPLY_FLAGS")}),
	}
	// MODE is struct nfulnl_msg_config_mode: a number of 32 bits in network order, one octet, and padding.
	logConfigFormat = wireFormat{1: number("CMD"), 2: octets("MODE"), 4: number("TIMEOUT"), 5: number("QTHRESH"), 6: number("FLAGS")}
	// CMD is struct nfqnl_msg_config_cmd, of octets and a number that is not used, and PARAMS struct nfqnl_msg_config_params: a
	// number of 32 bits in network order, and one octet. VERDICT_HDR is two numbers of 32 bits in network order.
	queueConfigFormat  = wireFormat{1: octets("CMD"), 2: octets("PARAMS"), 3: number("QUEUE_MAXLEN"), 4: number("MASK"), 5: number("FLAGS")}
	queueVerdictFormat = wireFormat{2: octets("VERDICT_HDR")}
	routeFormat        = wireFormat{1: octets("DST")}
	linkFormat         = wireFormat{3: text("IFNAME")}
)

// wireStruct is the fields of a structure: how many octets each has.
type wireStruct []struct {
	name string
	size int
	kind wireKind
}

var (
	nlmsghdr = wireStruct{{"length", 4, wireHost}, {"type", 2, wireHost}, {"flags", 2, wireHost}, {"sequence", 4, wireHost}, {"pid", 4, wireHost}}
	nfgen    = wireStruct{{"family", 1, wireNumber}, {"version", 1, wireNumber}, {"resource", 2, wireNumber}}
	// inet_diag_req_v2 with inet_diag_sockid; the cookie is two numbers of 32 bits.
	diagRequest = wireStruct{
		{"family", 1, wireNumber}, {"protocol", 1, wireNumber}, {"ext", 1, wireNumber}, {"pad", 1, wireNumber}, {"states", 4, wireHost},
		{"sport", 2, wireNumber}, {"dport", 2, wireNumber}, {"src", 16, wireOctets}, {"dst", 16, wireOctets},
		{"link", 4, wireHost}, {"cookie", 4, wireHost}, {"cookie", 4, wireHost},
	}
	rtmsg = wireStruct{
		{"family", 1, wireNumber}, {"dst_len", 1, wireNumber}, {"src_len", 1, wireNumber}, {"tos", 1, wireNumber},
		{"table", 1, wireNumber}, {"protocol", 1, wireNumber}, {"scope", 1, wireNumber}, {"type", 1, wireNumber}, {"flags", 4, wireHost},
	}
	ifinfomsg = wireStruct{{"family", 1, wireNumber}, {"pad", 1, wireNumber}, {"type", 2, wireHost}, {"index", 4, wireHost}, {"flags", 4, wireHost}, {"change", 4, wireHost}}
	ifaddrmsg = wireStruct{{"family", 1, wireNumber}, {"prefixlen", 1, wireNumber}, {"flags", 1, wireNumber}, {"scope", 1, wireNumber}, {"index", 4, wireHost}}
)

// wireMessage describes a kind of message: what is in front of its attributes, and those.
type wireMessage struct {
	name   string
	header wireStruct
	format wireFormat
}

// netfilterMessages are those of NETLINK_NETFILTER, by type. routeMessages and diagMessages are those of
// NETLINK_ROUTE and NETLINK_SOCK_DIAG.
var (
	netfilterMessages = map[uint16]wireMessage{
		16: {"BATCH_BEGIN", nfgen, batchFormat}, 17: {"BATCH_END", nfgen, nil},
		0x100: {"CT_NEW", nfgen, flowFormat}, 0x101: {"CT_GET", nfgen, flowFormat}, 0x102: {"CT_DELETE", nfgen, flowFormat},
		0x104: {"CT_GET_STATS", nfgen, nil},
		0x301: {"QUEUE_VERDICT", nfgen, queueVerdictFormat}, 0x302: {"QUEUE_CONFIG", nfgen, queueConfigFormat},
		0x401: {"LOG_CONFIG", nfgen, logConfigFormat},
		0xa00: {"NEWTABLE", nfgen, tableFormat}, 0xa01: {"GETTABLE", nfgen, tableFormat}, 0xa02: {"DELTABLE", nfgen, tableFormat}, 0xa1a: {"DESTROYTABLE", nfgen, tableFormat},
		0xa03: {"NEWCHAIN", nfgen, chainFormat}, 0xa05: {"DELCHAIN", nfgen, chainFormat},
		0xa06: {"NEWRULE", nfgen, ruleFormat}, 0xa08: {"DELRULE", nfgen, ruleFormat},
		0xa09: {"NEWSET", nfgen, setFormat}, 0xa0b: {"DELSET", nfgen, setFormat},
		0xa0c: {"NEWSETELEM", nfgen, elementsFormat}, 0xa0e: {"DELSETELEM", nfgen, elementsFormat},
	}
	routeMessages = map[uint16]wireMessage{
		18: {"GETLINK", ifinfomsg, linkFormat}, 22: {"GETADDR", ifaddrmsg, nil}, 26: {"GETROUTE", rtmsg, routeFormat},
	}
	diagMessages = map[uint16]wireMessage{20: {"SOCK_DIAG_BY_FAMILY", diagRequest, nil}}
)
