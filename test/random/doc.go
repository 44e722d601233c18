// Package random makes clusters, histories and packets for property tests.
//
// Everything comes from one *rand.Rand, so that a seed gives the same again.
// The values are drawn from small pools: what matters happens where things
// meet, such as two selectors that mean one pod, an except inside another
// policy's block, or an address that two pods claim. A Coverage says of what was drawn which
// features really came up.
package random
