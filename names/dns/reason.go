package dns

import "fmt"

// Reason is why a message, or a part of it, was ignored. Its String is made to be a label of a metric.
type Reason uint8

// Why messages are ignored.
const (
	// Malformed: no DNS message, or not to its end as far as it was read. A name with a dot inside of a label is malformed
	// as well, as it could be taken for another.
	Malformed Reason = iota + 1
	// WrongDirection: a query that comes from the resolver, or a reply that comes from the pod.
	WrongDirection
	// OtherOperation: not a standard query, such as an update (RFC 2136).
	OtherOperation
	// QuestionCount: not exactly one question.
	QuestionCount
	// OtherQuestion: asks for something else than addresses of class IN. That is no fault.
	OtherQuestion
	// OddName: asks for a name with an octet other than ASCII's letters and digits, "-" and "_", which no host has (RFC 1123
	// section 2.1), or for the root.
	OddName
	// NotFollowed: of a connection whose beginning was not seen, or of which segments are missing.
	NotFollowed
	// TooMany: what was asked went out of the Tracker before its time, as there was no room.
	TooMany

	// NotAsked: a reply on a flow in which nothing is waited for.
	NotAsked
	// WrongID: a reply whose ID nothing has that is waited for.
	WrongID
	// WrongQuestion: a reply to another question than that with its ID.
	WrongQuestion
	// ErrorCode: the reply says that there is an error, such as that there is no such name.
	ErrorCode
	// Truncated: the resolver has cut the reply to UDP's size. What is there counts; a pod that asks again, over TCP, gets
	// all (RFC 2181 section 9).
	Truncated
	// LongChain: more aliases than are followed.
	LongChain
	// NoAddresses: the reply has no address that counts for the name.
	NoAddresses
	// TooManyAddresses: the reply has more addresses than are taken. Those that come first count.
	TooManyAddresses

	// UnspecifiedAddress, and those that follow: an address that no peer outside the node can have, which was left out of
	// the answer.
	UnspecifiedAddress
	LoopbackAddress
	MulticastAddress
	BroadcastAddress
	LinkLocalAddress
	MappedAddress
)

var reasons = map[Reason]string{
	Malformed:          "malformed",
	WrongDirection:     "wrong-direction",
	OtherOperation:     "other-operation",
	QuestionCount:      "question-count",
	OtherQuestion:      "other-question",
	OddName:            "odd-name",
	NotFollowed:        "not-followed",
	TooMany:            "too-many",
	NotAsked:           "not-asked",
	WrongID:            "wrong-id",
	WrongQuestion:      "wrong-question",
	ErrorCode:          "error-code",
	Truncated:          "truncated",
	LongChain:          "long-chain",
	NoAddresses:        "no-addresses",
	TooManyAddresses:   "too-many-addresses",
	UnspecifiedAddress: "unspecified-address",
	LoopbackAddress:    "loopback-address",
	MulticastAddress:   "multicast-address",
	BroadcastAddress:   "broadcast-address",
	LinkLocalAddress:   "link-local-address",
	MappedAddress:      "mapped-address",
}

func (r Reason) String() string {
	if text, known := reasons[r]; known {
		return text
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
