package kernel

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// User data is nft's own: the kernel keeps it, and nft reads by it what it lists. libnftnl has its numbers
// in the order of the machine (nftnl_udata_put_u32 in src/udata.c), but the library writes them as a
// little-endian machine would. On others nft would not know the order of a set's keys, and would not see that
// a range is open. What the kernel enforces does not depend on it.

// The attributes with user data (include/uapi/linux/netfilter/nf_tables.h), and those of its entries that
// are numbers (include/libnftnl/udata.h: enum nftnl_udata_set_types and nftnl_udata_set_elem_types).
const (
	nftaSetUserData     = 13 // NFTA_SET_USERDATA
	nftaSetElemUserData = 6  // NFTA_SET_ELEM_USERDATA

	udataKeyOrder, udataDataOrder, udataMerge, udataDataInterval = 0, 1, 2, 6
	udataElemFlags                                               = 1
)

// userDataInHostOrder puts the numbers of user data into the order of the machine, in messages as the library
// makes them. Where that is the library's order there is nothing to do.
func userDataInHostOrder(messages []netlink.Message, machine binary.ByteOrder) {
	if machine.Uint16([]byte{1, 0}) == 1 {
		return
	}
	for _, m := range messages {
		if len(m.Data) < nfgenmsgLength {
			continue
		}
		a := attributeReader{rest: m.Data[nfgenmsgLength:]}
		switch m.Header.Type {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSET:
			for a.next() {
				if a.kind == nftaSetUserData {
					numbersInOrder(a.data, machine, udataKeyOrder, udataDataOrder, udataMerge, udataDataInterval)
				}
			}
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
			for a.next() {
				if a.kind == nftaSetElemListElements {
					elementsInOrder(a.nested(), machine)
				}
			}
		}
	}
}

func elementsInOrder(list attributeReader, machine binary.ByteOrder) {
	for list.next() {
		element := list.nested()
		for element.next() {
			if element.kind == nftaSetElemUserData {
				numbersInOrder(element.data, machine, udataElemFlags)
			}
		}
	}
}

// numbersInOrder changes the numbers among the entries of user data: those of the kinds given.
func numbersInOrder(data []byte, machine binary.ByteOrder, kinds ...byte) {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		content := data[2 : 2+int(data[1])]
		for _, kind := range kinds {
			if data[0] == kind && len(content) == 4 {
				machine.PutUint32(content, binary.LittleEndian.Uint32(content))
			}
		}
		data = data[2+len(content):]
	}
}
