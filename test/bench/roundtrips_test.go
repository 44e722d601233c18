package bench

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/test/quantiles"
)

// roundTrips are how long datagrams of one UDP flow take there and back, one after the other, in turns with rules and
// without.
type roundTrips struct{ rules, none [][]time.Duration }

const (
	// tripsPause is how long the client waits between two: its processor is to be free for others.
	tripsPause = 200 * time.Microsecond
	// tripsSlice is how long a turn is: the 99th percentile is that of some thirty of the slowest.
	tripsSlice = time.Second
)

// measure adds turns. Which of a pair comes first changes.
func (r *roundTrips) measure(b *testing.B, w *wire, rules, none func()) {
	b.Helper()
	receiver := w.listen(b, unix.SOCK_DGRAM, firstPort)
	var sender int
	must(b, w.client.Do(func() (err error) {
		sender, err = w.connect(unix.SOCK_DGRAM, firstPort)
		return err
	}))
	must(b, establish(sender, receiver))
	must(b, unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}))
	var answering sync.WaitGroup
	answering.Go(func() {
		for octet := make([]byte, 1); ; {
			n, from, err := unix.Recvfrom(receiver, octet, 0)
			if err != nil || n == 0 {
				return // stopped
			}
			_ = unix.Sendto(receiver, octet, 0, from) // the client misses what did not go out
		}
	})
	for n := range pairs {
		sides := []func(){
			func() { rules(); r.rules = append(r.rules, turnOfTrips(b, sender)) },
			func() { none(); r.none = append(r.none, turnOfTrips(b, sender)) },
		}
		sides[n%2]()
		sides[1-n%2]()
	}
	// What shuts a receiver down that is not connected says so, and wakes it all the same.
	if err := unix.Shutdown(receiver, unix.SHUT_RDWR); !errors.Is(err, unix.ENOTCONN) {
		must(b, err)
	}
	answering.Wait()
	must(b, errors.Join(unix.Close(sender), unix.Close(receiver)))
}

// turnOfTrips measures round trips for a tripsSlice. One that is lost takes as long as it is waited for, a second.
func turnOfTrips(b *testing.B, sender int) (took []time.Duration) {
	b.Helper()
	time.Sleep(settling)
	answer := make([]byte, 1)
	number := byte(0)
	for end := time.Now().Add(tripsSlice); time.Now().Before(end); number++ {
		began := time.Now()
		if _, err := unix.Write(sender, []byte{number}); err != nil {
			must(b, fmt.Errorf("send a datagram: %w", err))
		}
		for {
			_, err := unix.Read(sender, answer)
			if errors.Is(err, unix.EINTR) {
				continue // Go's runtime takes the processor from a thread by a signal
			}
			if errors.Is(err, unix.EAGAIN) || err == nil && answer[0] == number {
				break
			}
			if err != nil {
				must(b, fmt.Errorf("receive the answer: %w", err))
			}
		}
		took = append(took, time.Since(began))
		time.Sleep(tripsPause)
	}
	return took
}

// report reports the 50th and the 99th percentile with the rules, in microseconds, and each as a share of that
// without them in the pair's other turn, in per cent.
func (r *roundTrips) report(b *testing.B) {
	b.Helper()
	for _, percent := range []int{50, 99} {
		var values, shares []float64
		for n := range r.rules {
			with, without := percentile(r.rules[n], percent), percentile(r.none[n], percent)
			values = append(values, with)
			shares = append(shares, 100*with/without)
		}
		unit := fmt.Sprintf("trip-p%d-us", percent)
		quantiles.ReportMedian(b, unit, values)
		quantiles.ReportMedian(b, "%"+unit, shares)
	}
}

func percentile(times []time.Duration, percent int) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[(len(sorted)-1)*percent/100]) / 1e3
}
