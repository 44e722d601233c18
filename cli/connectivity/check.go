package connectivity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Check is the question whether a NetworkPolicy is enforced at a server: it lets the client reach one
// port, and not the other, on which the server listens as well.
type Check struct {
	// Server is the DNS name of the server, or of several: all addresses of the name are tried.
	Server string
	// Own are the addresses of the client. Of each of their IP families the server must have an
	// address. None: it is enough if the server has any.
	Own []netip.Addr
	// Allowed is the port that must be reached, and Denied the one that must not.
	Allowed, Denied uint16
	// Timeout is how long the server may take to be there and reached.
	Timeout time.Duration
	// Patience is how long each connection is waited for. A denied one is waited for as long.
	Patience time.Duration
	// Lookup and Dial are those of the net package, or others for a test.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Out is told of each connection, one line each.
	Out io.Writer
}

// retry is how long a check waits before it tries again what has not passed yet.
const retry = 500 * time.Millisecond

// deniedTries is how often each denied connection is tried.
const deniedTries = 2

// Run answers it: nil if at each address of the server the allowed connection passes and the denied
// one does not. The error says what was otherwise at which address, and what that means.
func (c *Check) Run(ctx context.Context) error {
	addresses, err := c.addresses(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, address := range addresses {
		problems = append(problems, c.at(ctx, address))
	}
	return errors.Join(problems...)
}

// at answers it for one address. That the allowed connection passes, before and after, shows that the
// denied one is not stopped by something else, such as a network or a server that is away.
func (c *Check) at(ctx context.Context, address netip.Addr) error {
	server, err := c.reach(ctx, address)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "allowed: %s answers, it is %s\n", netip.AddrPortFrom(address, c.Allowed), server)
	for range deniedTries {
		if err := c.denied(ctx, address, server); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.Out, "denied: %s gives no answer, as it should be\n", netip.AddrPortFrom(address, c.Denied))
	if _, err := c.reach(ctx, address); err != nil {
		return fmt.Errorf("the allowed connection has passed, and passes no more: %w", err)
	}
	return nil
}

// addresses waits until the server has an address of each family that the client has.
func (c *Check) addresses(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	for {
		found, err := c.Lookup(ctx, "ip", c.Server)
		for i := range found {
			found[i] = found[i].Unmap()
		}
		slices.SortFunc(found, netip.Addr.Compare)
		found = slices.Compact(found)
		missing := slices.ContainsFunc(c.Own, func(own netip.Addr) bool {
			return !slices.ContainsFunc(found, func(a netip.Addr) bool { return a.Is4() == own.Unmap().Is4() })
		})
		if err == nil && len(found) > 0 && !missing {
			return found, nil
		}
		if !pause(ctx) {
			return nil, fmt.Errorf("in %s, DNS has not had an address of the server %s in each family of the client's addresses %v, but %v (%w): "+
				"do the server's pods run, and does the cluster's DNS answer?", c.Timeout, c.Server, c.Own, found, err)
		}
	}
}

// reach waits until the allowed connection passes, and returns the name of who answers.
func (c *Check) reach(ctx context.Context, address netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	target := netip.AddrPortFrom(address, c.Allowed)
	for {
		name, err := c.ask(ctx, target)
		if err == nil {
			return name, nil
		}
		if !pause(ctx) {
			return "", fmt.Errorf("the allowed connection to %s does not pass in %s (%w): the pods' network does not work, or another policy denies it", target, c.Timeout, err)
		}
	}
}

// ask connects and reads the name of who answers.
func (c *Check) ask(ctx context.Context, target netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", target.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return "", err
	}
	name, err := io.ReadAll(io.LimitReader(conn, maxName+1))
	if err != nil {
		return "", fmt.Errorf("connected, but no answer: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

// denied tries the denied connection, and returns an error unless it was stopped on its way.
func (c *Check) denied(ctx context.Context, address netip.Addr, server string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	target := netip.AddrPortFrom(address, c.Denied)
	conn, err := c.Dial(ctx, "tcp", target.String())
	if err == nil {
		_ = conn.Close()
	}
	switch {
	case err == nil, errors.Is(err, syscall.ECONNREFUSED): // refused by the server's own kernel: it was asked
		return fmt.Errorf("THE DENIED CONNECTION PASSED: the NetworkPolicy of this test allows port %d alone, and %s answers as well, on %s: "+
			"no NetworkPolicy is enforced there, or a ClusterNetworkPolicy allows this before it is asked", c.Allowed, target, server)
	case stopped(err):
		return nil
	default:
		return fmt.Errorf("whether the denied connection to %s would pass cannot be told: %w", target, err)
	}
}

// stopped is whether a connection has failed as it does when its packets are dropped (no answer in time), or
// rejected with an ICMP error.
func stopped(err error) bool {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.EACCES)
}

// pause waits before the next try; false if there is no time for one.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retry):
		return true
	}
}
