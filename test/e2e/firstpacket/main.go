// firstpacket is the first process of a pod of TestFirstPacket. With its first instructions it
// connects by TCP, and sends one datagram by UDP, to each address of a server, all from one port
// by which the server's side can tell whose packets they are:
//
//	firstpacket RESULT PORT PATIENCE ADDRESS...
//
// It writes what has come of it to the file RESULT, and stays until it is told to end, so that its
// network namespace can be looked at.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Ports of agnhost's netexec, as the test starts it.
const tcpPort, udpPort = 8080, 8081

// result is what the program says. The test reads it.
type result struct {
	NetNS string // as /proc/self/ns/net has it
	Tries []try
}

// try is one connection, or one datagram and its answer.
type try struct {
	Network, Address string
	Micros           int64 // until it was there
	Error            string
}

func main() {
	begin := time.Now()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if err := run(begin, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "firstpacket:", err)
		os.Exit(1)
	}
	<-stop
}

func run(begin time.Time, args []string) error {
	if len(args) < 4 {
		return errors.New("usage: firstpacket RESULT PORT PATIENCE ADDRESS [ADDRESS ...]")
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return err
	}
	patience, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	var r result
	for _, address := range args[3:] {
		r.Tries = append(r.Tries, try{Network: "tcp", Address: address}, try{Network: "udp", Address: address})
	}
	deadline := begin.Add(patience)
	var all sync.WaitGroup
	for i := range r.Tries {
		all.Go(func() {
			t := &r.Tries[i]
			began := time.Now()
			if err := t.make(int(port), deadline); err != nil {
				t.Error = err.Error()
			}
			t.Micros = time.Since(began).Microseconds()
		})
	}
	all.Wait()
	if r.NetNS, err = os.Readlink("/proc/self/ns/net"); err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[0]+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(args[0]+".new", args[0])
}

// make connects, or sends a datagram and waits for its answer. What it opens stays open.
func (t *try) make(port int, deadline time.Time) error {
	to, err := netip.ParseAddr(t.Address)
	if err != nil {
		return err
	}
	family := "6" // and that alone, as both families have the same port
	if to.Is4() {
		family = "4"
	}
	dialer := net.Dialer{Deadline: deadline}
	if t.Network == "tcp" {
		dialer.LocalAddr = &net.TCPAddr{Port: port}
		_, err = dialer.Dial("tcp"+family, netip.AddrPortFrom(to, tcpPort).String())
		return err
	}
	dialer.LocalAddr = &net.UDPAddr{Port: port}
	conn, err := dialer.Dial("udp"+family, netip.AddrPortFrom(to, udpPort).String())
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hostname")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1500))
	return err
}
