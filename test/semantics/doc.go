// Package semantics has one test for each statement of docs/SEMANTICS.md about
// what podfence makes of NetworkPolicies: TestA17_ is the test of A17.
//
// Each test writes down a small cluster and what becomes of packets in it:
//
//	c := cluster(t, `
//		pod shop/web app=web
//		pod db/pg    app=pg  pg:5432
//		policy db/pg {podSelector: {}, ingress: [{ports: [{port: pg}]}]}
//	`)
//	c.expect(`
//		allow shop/web -> db/pg tcp 5432
//		deny  shop/web -> db/pg udp 5432
//	`)
//
// An expectation holds if the verdict function, the table's trace and a real
// packet, over IPv4 and over IPv6, all say so (package test/agreement). Where a
// statement is about connections, the tests have real ones; where it is about
// what never becomes a packet, they look at values, and say so.
package semantics
