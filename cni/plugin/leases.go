package plugin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/handshake"
)

// attachment is an interface of a container.
type attachment struct{ containerID, ifName string }

func (a attachment) String() string { return a.containerID + "/" + a.ifName }

// lease is an address with its owner.
type lease struct {
	addr  netip.Addr
	owner attachment
}

// leases are the addresses in use: one file for each, as host-local has them,
// named by the address and holding the owner. While they are open, no other
// process has them open.
type leases struct {
	dir   string
	store *disk.Store
	all   []lease
}

// openLeases locks and reads the leases of a network.
func openLeases(c *Config) (*leases, error) {
	l, err := lockLeases(c)
	if err != nil {
		return nil, err
	}
	if err := l.read(); err != nil {
		return nil, fmt.Errorf("leases: %w", errors.Join(err, l.close()))
	}
	return l, nil
}

// lockLeases locks the leases of a network and reads none. Those of an earlier boot are
// gone then.
func lockLeases(c *Config) (*leases, error) {
	store, err := disk.New(c.Name, c.DataDir)
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	if err := store.Lock(); err != nil {
		return nil, fmt.Errorf("leases: %w", errors.Join(err, store.Close()))
	}
	l := &leases{dir: filepath.Join(c.DataDir, c.Name), store: store}
	if err := l.endWithBoot(); err != nil {
		return nil, fmt.Errorf("leases: %w", errors.Join(err, l.close()))
	}
	return l, nil
}

// bootFile says, among the leases, of which boot they are.
const bootFile = "boot"

// endWithBoot removes the leases of an earlier boot: the containers that had the addresses are
// gone, whether or not the runtime remembers to say so. Leases that do not say of which boot they
// are were made by an older podfence, and may be of this boot.
func (l *leases) endWithBoot() error {
	path := filepath.Join(l.dir, bootFile)
	boot, err := handshake.BootOf(path)
	if err != nil || boot == handshake.ThisBoot {
		return err
	}
	if boot == handshake.EarlierBoot {
		entries, err := os.ReadDir(l.dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, err := netip.ParseAddr(e.Name()); err != nil {
				continue // the lock, the last address given
			}
			if err := os.Remove(filepath.Join(l.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return handshake.NoteBoot(path)
}

// close lets others have them; with the file goes its lock.
func (l *leases) close() error { return l.store.Close() }

// read reads all leases. It removes those without an owner: host-local makes
// the file and then writes it, so a process killed between the two leaves an
// address that is nobody's and would never be free again. Under the lock there
// is no other reason for such a file.
func (l *leases) read() error {
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		addr, err := netip.ParseAddr(name)
		if err != nil {
			continue // the lock, the last address given
		}
		owner, err := readOwner(dir, name)
		if err != nil {
			return err
		}
		if owner == (attachment{}) {
			if err := os.Remove(filepath.Join(l.dir, name)); err != nil {
				return err
			}
			continue
		}
		l.all = append(l.all, lease{addr, owner})
	}
	return nil
}

// readOwner reads a lease, of which a node may have hundreds: without what the
// os package does for each file, it takes half the time. The zero attachment
// means that there is no owner in it.
func readOwner(dir *os.File, name string) (owner attachment, err error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return owner, &os.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	defer unix.Close(fd)
	text := make([]byte, 1024) // a container's ID has 64 octets
	n, err := unix.Read(fd, text)
	if err == nil && n == len(text) {
		text, err = os.ReadFile(filepath.Join(dir.Name(), name))
		n = len(text)
	}
	if err != nil {
		return owner, &os.PathError{Op: "read", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	id, ifName, ok := strings.Cut(strings.TrimSpace(string(text[:n])), disk.LineBreak)
	if !ok || id == "" || ifName == "" {
		return owner, nil
	}
	return attachment{id, ifName}, nil
}

// of returns the addresses of one owner, IPv4 before IPv6.
func (l *leases) of(owner attachment) []netip.Addr {
	var addrs []netip.Addr
	for _, lease := range l.all {
		if lease.owner == owner {
			addrs = append(addrs, lease.addr)
		}
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b))
	})
	return addrs
}

// allocate gives the owner an address in each range: the one that it has, left
// by an ADD that was killed, or a new one.
func (l *leases) allocate(owner attachment, ranges []netip.Prefix) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for i, p := range ranges {
		addr, err := l.allocateIn(owner, p, i)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func (l *leases) allocateIn(owner attachment, p netip.Prefix, index int) (netip.Addr, error) {
	for _, has := range l.of(owner) {
		if p.Contains(has) {
			return has, nil
		}
	}
	if used, size := l.used(p), capacity(p); used >= size {
		return netip.Addr{}, types.NewError(CodeExhausted,
			fmt.Sprintf("no address is left in pod CIDR %s: %d of %d are in use", p, used, size), "")
	}
	set := allocator.RangeSet{{Subnet: types.IPNet(*network(p)), Gateway: Gateway(p).AsSlice()}}
	if err := set.Canonicalize(); err != nil {
		return netip.Addr{}, fmt.Errorf("pod CIDR %s: %w", p, err)
	}
	got, err := allocator.NewIPAllocator(&set, store{l.store}, index).Get(owner.containerID, owner.ifName, nil)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("pod CIDR %s: %w", p, err)
	}
	addr, ok := netip.AddrFromSlice(got.Address.IP)
	if !ok {
		return netip.Addr{}, fmt.Errorf("pod CIDR %s: the allocator gave %q", p, got.Address.IP)
	}
	addr = addr.Unmap()
	l.all = append(l.all, lease{addr, owner})
	return addr, nil
}

// used counts the leases in a range.
func (l *leases) used(p netip.Prefix) (n int) {
	for _, lease := range l.all {
		if p.Contains(lease.addr) {
			n++
		}
	}
	return n
}

// capacity is how many pods a range has addresses for: not the network's, not
// the gateway's, and in IPv4 not the broadcast address. It stops counting where
// no node comes near.
func capacity(p netip.Prefix) int {
	host := min(p.Addr().BitLen()-p.Bits(), 30)
	if p.Addr().Is4() {
		return 1<<host - 3
	}
	return 1<<host - 2
}

// release frees those of the addresses that the owner has.
func (l *leases) release(owner attachment, addrs []netip.Addr) error {
	dir, err := os.Open(l.dir)
	if err != nil {
		return fmt.Errorf("free the addresses of %s: %w", owner, err)
	}
	defer dir.Close()
	var errs []error
	for _, addr := range addrs {
		// netip spells an address as net.IP does, which named the file.
		has, err := readOwner(dir, addr.String())
		if err == nil && has == owner {
			err = os.Remove(filepath.Join(l.dir, addr.String()))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		l.all = slices.DeleteFunc(l.all, func(x lease) bool { return x == lease{addr, owner} })
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("free the addresses of %s: %w", owner, err)
	}
	return nil
}

// holds says whether the owner has all these addresses.
func (l *leases) holds(owner attachment, addrs []netip.Addr) (bool, error) {
	dir, err := os.Open(l.dir)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	for _, addr := range addrs {
		has, err := readOwner(dir, addr.String())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if err != nil || has != owner {
			return false, nil
		}
	}
	return true, nil
}

// store is host-local's store, for an allocator that runs under a lock which it must not give
// back. The allocator need not look for the addresses that the owner has: to do so, it would read
// all files again for each family.
type store struct{ *disk.Store }

func (store) Lock() error                     { return nil }
func (store) Unlock() error                   { return nil }
func (store) GetByID(string, string) []net.IP { return nil }

// network is a prefix in the form that netlink takes.
func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
