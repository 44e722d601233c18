package dns

import (
	"container/heap"
	"net/netip"
	"time"
)

const (
	// questionTime is how long a question may be answered: libc asks up to three resolvers twice, with five seconds for each
	// (resolv.conf(5)).
	questionTime = 30 * time.Second
	// answeredTime is how long one that was answered may be answered again, as it is if the query was sent twice.
	answeredTime = 5 * time.Second
	// idleTime is how long a connection over which nothing is sent is followed. Resolvers close those earlier.
	idleTime = 10 * time.Minute
	// sweepTime is how often all is looked at for what has expired.
	sweepTime = time.Second

	// maxOctets is how much memory all conversations take, about, and maxPodOctets those of a pod: some 6,000 sockets of
	// libc's, or dozens of connections in the middle of the longest messages.
	maxOctets    = 64 << 20
	maxPodOctets = 4 << 20

	// About what things take.
	conversationOctets, questionOctets = 512, 48
)

// bounds keeps conversations, within bounds: for a time, and of each pod and of all so much memory. Of a pod, those go
// first that would expire first. Where there is no room for all pods, they go of the pod that has most: no pod's flood
// makes another's go.
type bounds struct {
	// most and mostOfPod are the bounds, in octets.
	most, mostOfPod int
	octets          int
	conversations   map[Flow]*conversation
	pods            map[netip.Addr]*pod
	swept           time.Time
}

// pod has the conversations of a pod.
type pod struct {
	soonest heapOfConversations
	octets  int
}

func newBounds() bounds {
	return bounds{most: maxOctets, mostOfPod: maxPodOctets, conversations: map[Flow]*conversation{}, pods: map[netip.Addr]*pod{}}
}

// find returns a flow's conversation, or nil.
func (b *bounds) find(flow Flow, now time.Time) *conversation {
	c := b.conversations[flow]
	if c != nil && !c.expires.After(now) {
		b.remove(c)
		return nil
	}
	return c
}

// put takes a conversation in that is new or has changed. It returns how many had to go for it.
func (b *bounds) put(c *conversation, now time.Time) (evicted int) {
	before := c.octets
	c.touched = now
	c.measure()
	p := b.pods[c.flow.Pod.Addr()]
	switch have := b.conversations[c.flow]; {
	case have == c:
		p.octets += c.octets - before
		b.octets += c.octets - before
		heap.Fix(&p.soonest, c.at)
	default:
		if have != nil {
			b.remove(have)
			p = b.pods[c.flow.Pod.Addr()]
		}
		if p == nil {
			p = &pod{}
			b.pods[c.flow.Pod.Addr()] = p
		}
		b.conversations[c.flow] = c
		p.octets += c.octets
		b.octets += c.octets
		heap.Push(&p.soonest, c)
	}
	if !c.expires.After(now) {
		b.remove(c)
	}
	for ; p.octets > b.mostOfPod; evicted++ {
		b.remove(p.soonest[0])
	}
	for ; b.octets > b.most; evicted++ {
		b.remove(b.largest().soonest[0])
	}
	return evicted
}

// largest is the pod that has most.
func (b *bounds) largest() (largest *pod) {
	for _, p := range b.pods {
		if largest == nil || p.octets > largest.octets {
			largest = p
		}
	}
	return largest
}

func (b *bounds) remove(c *conversation) {
	p := b.pods[c.flow.Pod.Addr()]
	heap.Remove(&p.soonest, c.at)
	p.octets -= c.octets
	b.octets -= c.octets
	delete(b.conversations, c.flow)
	if len(p.soonest) == 0 {
		delete(b.pods, c.flow.Pod.Addr())
	}
}

// sweep removes what has expired, from time to time.
func (b *bounds) sweep(now time.Time) {
	if now.Sub(b.swept) < sweepTime {
		return
	}
	b.swept = now
	for _, p := range b.pods {
		for len(p.soonest) > 0 && !p.soonest[0].expires.After(now) {
			b.remove(p.soonest[0])
		}
	}
}

// heapOfConversations has the one first that expires first (container/heap).
type heapOfConversations []*conversation

func (h heapOfConversations) Len() int           { return len(h) }
func (h heapOfConversations) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h heapOfConversations) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *heapOfConversations) Push(x any) {
	c := x.(*conversation)
	c.at = len(*h)
	*h = append(*h, c)
}

// Pop implements heap.Interface.
func (h *heapOfConversations) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return c
}
