package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// path is the path of a setting. What is written there counts for the network namespace of the
// writing thread, whichever mount of proc it is.
func (r *round) path(name string) string { return filepath.Join(r.options.ProcSys, name) }

func (r *round) exists(name string) bool {
	_, err := os.Stat(r.path(name))
	return err == nil
}

func (r *round) read(name string) (string, error) {
	text, err := os.ReadFile(r.path(name))
	if err != nil {
		return "", fmt.Errorf("sysctl: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// set writes a setting if it has another value: writing net/ipv4/ip_forward
// resets those of each link. In a container /proc/sys may be read-only, which
// is no harm where the value is right already.
func (r *round) set(name, value string) {
	was, err := r.read(name)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	if was == value {
		return
	}
	// Without O_CREATE, as /proc can't create.
	file, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(value)
		err = errors.Join(err, file.Close())
	}
	r.did(err, "set sysctl %s from %s to %s", name, was, value)
}

// uses says whether this node's pods have addresses of a family.
func (r *round) uses(v6 bool) bool { return r.self.cidr(v6).IsValid() }

// forwarding makes the node a router, in the families that its pods have.
func (r *round) forwarding() {
	if r.uses(false) {
		r.set("net/ipv4/ip_forward", "1")
		// A redirect would send a pod past its gateway, so past its policy. It
		// is sent if this or the link's own setting says so
		// (IN_DEV_TX_REDIRECTS); other links keep theirs.
		r.set("net/ipv4/conf/all/send_redirects", "0")
	}
	if !r.uses(true) {
		return
	}
	if !r.ipv6 {
		r.errs = append(r.errs, fmt.Errorf("podCIDR %s: this kernel has no IPv6", r.self.cidr(true)))
		return
	}
	r.keepRouterAdvertisements()
	r.set("net/ipv6/conf/all/forwarding", "1")
}

// keepRouterAdvertisements lets the uplinks listen to routers though the node
// becomes one itself. With accept_ra=1, the usual value, a node that starts to
// forward drops at once the default routes that it has learnt
// (rt6_purge_dflt_routers) and learns no others (ipv6_accept_ra); 2 means: even
// if forwarding. A node that forwards already is left as it is, and so is a link
// with 0, or without an InternalIP or a default route.
func (r *round) keepRouterAdvertisements() {
	if forwards, err := r.read("net/ipv6/conf/all/forwarding"); err != nil || forwards != "0" {
		return
	}
	links, err := r.uplinks()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, link := range links {
		name := "net/ipv6/conf/" + link.Attrs().Name + "/accept_ra"
		if value, err := r.read(name); err == nil && value == "1" {
			r.set(name, "2")
		}
	}
}

// setLink is for podfence's own devices, before they are up. What pods send must
// not change the node's routes: a default of accept_ra=2 would let them. Neither
// device has a link-local address (addr_gen_mode 1, IN6_ADDR_GEN_MODE_NONE): all
// neighbours are permanent, and an IPv6 redirect, which no setting turns off, is
// sent from no other address (ndisc_send_redirect).
func (r *round) setLink(link string) {
	v4, v6 := "net/ipv4/conf/"+link+"/", "net/ipv6/conf/"+link+"/"
	if r.uses(false) {
		r.set(v4+"forwarding", "1")
	}
	r.set(v4+"send_redirects", "0")
	r.set(v4+"accept_redirects", "0")
	// Nor do they choose the way: no source routes, and no routing header of any type.
	r.set(v4+"accept_source_route", "0")
	if !r.ipv6 {
		return
	}
	r.set(v6+"accept_ra", "0")
	r.set(v6+"accept_dad", "0")
	r.set(v6+"accept_redirects", "0")
	r.set(v6+"accept_source_route", "-1")
	r.set(v6+"addr_gen_mode", "1")
	if r.uses(true) {
		r.set(v6+"disable_ipv6", "0")
		r.set(v6+"forwarding", "1")
	}
}

// loosen takes strict reverse path filtering (RFC 3704) off a link: the greater
// of its own and the common value counts (IN_DEV_RPFILTER). A node's packets to
// a pod come out of the tunnel with its InternalIP, which is not routed there.
func (r *round) loosen(link string) {
	greatest := 0
	for _, name := range []string{"all", link} {
		text, err := r.read("net/ipv4/conf/" + name + "/rp_filter")
		value, bad := strconv.Atoi(text)
		if err := errors.Join(err, bad); err != nil {
			r.errs = append(r.errs, err)
			return
		}
		greatest = max(greatest, value)
	}
	if greatest == 1 {
		r.set("net/ipv4/conf/"+link+"/rp_filter", "2")
	}
}
