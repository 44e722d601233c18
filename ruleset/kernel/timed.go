package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// TimedSets reads the timed sets of the table of family inet back, with what is left of the elements' times: those of which
// typeOf knows the type. It has a connection of its own. If there is no such table, there are no sets.
func TimedSets(options Options, typeOf func(set string) (t nft.SetType, known bool)) (map[string][]nft.TimedElement, error) {
	failed := func(err error) error { return &OpError{Op: "read the timed sets back", Err: err} }
	conn, err := nftables.New(nftables.WithNetNSFd(options.NetNS))
	if err != nil {
		return nil, failed(err)
	}
	name := options.Table
	if name == "" {
		name = nft.TableName
	}
	sets, err := conn.GetSets(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	all := map[string][]nft.TimedElement{}
	for _, set := range sets {
		t, known := typeOf(set.Name)
		if !known || !set.HasTimeout {
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return nil, failed(fmt.Errorf("set %s: %w", set.Name, err))
		}
		now := time.Now()
		for _, element := range elements {
			if e, is := t.ParseAddrs(element.Key); is && element.Expires > 0 {
				all[set.Name] = append(all[set.Name], nft.TimedElement{Element: e, Timed: nft.Timed{Expires: now.Add(element.Expires), Comment: element.Comment}})
			}
		}
	}
	return all, nil
}
