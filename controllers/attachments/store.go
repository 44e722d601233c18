package attachments

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// store is a folder with a file for each attachment. It belongs in /run, because attachments do not
// outlive a reboot either.
type store string

func (s store) path(at handshake.Attachment) string {
	return filepath.Join(string(s), filepath.Base(at.ContainerID+"."+at.IfName)+".json")
}

// save writes the file whole or not at all.
func (s store) save(at handshake.Attachment, attachment policy.Attachment) error {
	data, err := json.Marshal(attachment)
	if err != nil {
		return err
	}
	temporary := s.path(at) + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, s.path(at))
}

func (s store) remove(at handshake.Attachment) error {
	err := os.Remove(s.path(at))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// load reads all files. A file that cannot be understood is removed, but the others are still
// loaded. The pod of such a file is closed until its container is made anew.
func (s store) load() (map[handshake.Attachment]policy.Attachment, error) {
	paths, err := filepath.Glob(filepath.Join(string(s), "*.json"))
	if err != nil {
		return nil, err
	}
	known := map[handshake.Attachment]policy.Attachment{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		attachment, ok := parseAttachment(data)
		at := handshake.Attachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName}
		if !ok || s.path(at) != path { // under another name it would never be removed
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		known[at] = attachment
	}
	return known, nil
}

// parseAttachment reads what save has written; it fails for what save never
// writes.
func parseAttachment(data []byte) (a policy.Attachment, ok bool) {
	if json.Unmarshal(data, &a) != nil || a.ContainerID == "" || a.IfName == "" || a.Pod.Namespace == "" || a.Pod.Name == "" {
		return a, false
	}
	return a, len(a.IPs) > 0 && !slices.ContainsFunc(a.IPs, func(ip netip.Addr) bool {
		return !ip.IsValid() || ip != ip.Unmap() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast()
	})
}

// endWithBoot forgets what was kept before the node last booted, if the folder has outlived that. It
// must be called before anything is loaded.
func (s store) endWithBoot() error {
	path := string(s) + ".boot" // not in it: all files there are attachments
	boot, err := handshake.BootOf(path)
	if err != nil || boot == handshake.ThisBoot {
		return err
	}
	if boot == handshake.EarlierBoot {
		known, err := s.load()
		if err != nil {
			return err
		}
		for at := range known {
			if err := s.remove(at); err != nil {
				return err
			}
		}
	}
	return handshake.NoteBoot(path)
}
