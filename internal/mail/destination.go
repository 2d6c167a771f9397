package mail

// Destination is where a delivery goes: the name of a transport (a master.cf
// service such as "smtp") and a next hop in that transport's own syntax, lower
// case: "example.com", "[192.0.2.1]:2525", "5.1.2 bad domain".
//
// All scheduling state hangs off it: a delivery is one message, one
// destination, and the message's recipients there.
type Destination struct {
	Transport string
	NextHop   string
}

// String is "transport:nexthop", as in transport_maps.
func (d Destination) String() string { return d.Transport + ":" + d.NextHop }
