// Package server is the receiving end of SMTP and LMTP: listeners, sessions,
// TLS. It knows the protocol; what to accept it asks its Acceptor.
package server
