package kernel

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// queueing is how a rule queues packets. A kernel may have one way and not the other: nft_queue is an option of its own,
// and many are built without it that have xtables' NFQUEUE, which rules of nf_tables can use as well.
type queueing uint8

const (
	queueByExpression queueing = iota // CONFIG_NFT_QUEUE
	queueByTarget                     // CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_TARGET_NFQUEUE
)

// expression queues packets to a queue, or accepts them if nobody reads that.
func (q queueing) expression(number uint16) expr.Any {
	if q == queueByExpression {
		return &expr.Queue{Num: number, Total: 1, Flag: expr.QueueFlagBypass}
	}
	// struct xt_NFQ_info_v3 { u16 queuenum, queues_total, flags; } of include/uapi/linux/netfilter/xt_NFQUEUE.h, in the
	// order of the machine, to a multiple of 8 octets (XT_ALIGN)
	const queues, bypass = 1, 1 // NFQ_FLAG_BYPASS
	info := make(xt.Unknown, 0, 8)
	for _, field := range []uint16{number, queues, bypass, 0} {
		info = binary.NativeEndian.AppendUint16(info, field)
	}
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}
