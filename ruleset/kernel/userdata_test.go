package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// TestUserDataInHostOrder: of messages as the library makes them, a big-endian machine changes the numbers in
// user data and nothing else, and a little-endian one nothing.
func TestUserDataInHostOrder(t *testing.T) {
	g := NewWithT(t)
	const asTheLibrary, asBigEndian = "\x00\x04\x02\x00\x00\x00\x07\x05why?\x00", "\x00\x04\x00\x00\x00\x02\x07\x05why?\x00"
	const open, openBigEndian = "\x01\x04\x01\x00\x00\x00", "\x01\x04\x00\x00\x00\x01"
	made := func(set, element string) []netlink.Message {
		one := func(kind uint16, content []byte) []byte {
			b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: content}})
			g.Expect(err).NotTo(HaveOccurred())
			return b
		}
		message := func(kind netlink.HeaderType, attributes []byte) netlink.Message {
			return netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind}, Data: append(nfgenmsg(unix.NFPROTO_INET), attributes...)}
		}
		// The key has octets that would be user data elsewhere.
		key := one(nftaSetElemKey|unix.NLA_F_NESTED, one(nftaDataValue, []byte(open)))
		list := one(nftaSetElemListElements|unix.NLA_F_NESTED, one(nftaListElem|unix.NLA_F_NESTED, append(key, one(nftaSetElemUserData, []byte(element))...)))
		return []netlink.Message{
			message(unix.NFT_MSG_NEWSET, one(nftaSetUserData, []byte(set))),
			message(unix.NFT_MSG_NEWSETELEM, list), message(unix.NFT_MSG_DELSETELEM, bytes.Clone(list)),
			message(unix.NFT_MSG_NEWRULE, one(nftaSetUserData, []byte(asTheLibrary))),
		}
	}
	messages := made(asTheLibrary, open)
	userDataInHostOrder(messages, binary.LittleEndian)
	g.Expect(messages).To(Equal(made(asTheLibrary, open)))
	// The attributes are in this machine's order all the same.
	userDataInHostOrder(messages, binary.BigEndian)
	g.Expect(messages).To(Equal(made(asBigEndian, openBigEndian)))
}
