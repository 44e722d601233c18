package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// setKind is what has to be known of a set to ask for its elements.
type setKind struct {
	keyLength int
	isMap     bool
}

const (
	setIsMap        = 8 // NFT_SET_MAP
	setElemCatchAll = 2 // NFT_SET_ELEM_CATCHALL
	nftaSetElemData = 2 // NFTA_SET_ELEM_DATA
)

// Find implements bytecode.Ruleset. The kernel is asked for the one element that the key is, or, of a
// set of ranges, the one that it is in: the sets' own get functions look that up as packets do
// (__nft_rbtree_get in net/netfilter/nft_set_rbtree.c; nft_pipapo_get in nft_set_pipapo.c for
// concatenations). A key that is in no element may still be meant by the set's catch-all element.
func (t *readTable) Find(set string, key func(length int) ([]byte, error)) (data []byte, found bool, err error) {
	kind, err := t.setKind(set)
	if err != nil {
		return nil, false, err
	}
	wanted, err := key(kind.keyLength)
	if err != nil {
		return nil, false, err
	}
	value, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nftaDataValue, Data: wanted}})
	if err != nil {
		return nil, false, err
	}
	data, found, err = t.element(set, netlink.Attribute{Type: netlink.Nested | nftaSetElemKey, Data: value})
	if err == nil && !found {
		flags := binary.BigEndian.AppendUint32(nil, setElemCatchAll)
		data, found, err = t.element(set, netlink.Attribute{Type: nftaSetElemFlags, Data: flags})
		// Before Linux 5.13 there are no such elements.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
	}
	if err == nil && found && kind.isMap && data == nil {
		err = errors.New("the kernel does not say what the map has for the key")
	}
	return data, found, err
}

// setKind asks for a set, once.
func (t *readTable) setKind(set string) (kind setKind, err error) {
	if kind, known := t.sets[set]; known {
		return kind, nil
	}
	err = t.ask(unix.NFT_MSG_GETSET, []netlink.Attribute{{Type: unix.NFTA_SET_NAME, Data: append([]byte(set), 0)}}, func(m netlink.Message) error {
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_SET_KEY_LEN:
				kind.keyLength = int(ad.Uint32())
			case unix.NFTA_SET_FLAGS:
				kind.isMap = ad.Uint32()&setIsMap != 0
			}
		})
	})
	if err == nil && kind.keyLength < 1 {
		err = fmt.Errorf("the kernel does not say how long its keys are")
	}
	t.sets[set] = kind
	return kind, err
}

// element asks for an element, by its key or its flags. data is what a map has for it.
func (t *readTable) element(set string, by netlink.Attribute) (data []byte, found bool, err error) {
	err = t.askElement(set, by, func(ad *netlink.AttributeDecoder) { data, found = elementData(ad) })
	if errors.Is(err, unix.ENOENT) { // of the set itself it would be, too, but its rule keeps that
		return nil, false, nil
	}
	return data, found, err
}

// askElement asks for an element, by its key or its flags, and calls do with its attributes.
func (t *readTable) askElement(set string, by netlink.Attribute, do func(*netlink.AttributeDecoder)) error {
	element, err := netlink.MarshalAttributes([]netlink.Attribute{by})
	if err != nil {
		return err
	}
	list, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: netlink.Nested | nftaListElem, Data: element}})
	if err != nil {
		return err
	}
	return t.ask(unix.NFT_MSG_GETSETELEM, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)},
		{Type: netlink.Nested | nftaSetElemListElements, Data: list},
	}, func(m netlink.Message) error {
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == nftaSetElemListElements {
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						ad.Nested(func(ad *netlink.AttributeDecoder) error {
							do(ad)
							return nil
						})
					}
					return nil
				})
			}
		})
	})
}

// elementData reads an element. It is none if it only ends a range.
func elementData(ad *netlink.AttributeDecoder) (data []byte, is bool) {
	ad.ByteOrder = binary.BigEndian
	is = true
	for ad.Next() {
		switch ad.Type() {
		case nftaSetElemFlags:
			is = ad.Uint32()&setElemIntervalEnd == 0
		case nftaSetElemData:
			data = slices.Clone(ad.Bytes())
		}
	}
	return data, is
}
