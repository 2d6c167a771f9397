// Package smtp is the grammar that both ends of an SMTP or LMTP conversation
// share: commands, replies, addresses, ESMTP parameters, and the codecs of
// DATA (RFC 5321 §4.5.2) and BDAT (RFC 3030).
package smtp
