package access

import (
	"testing"

	"posthouse/internal/mail"
)

// TestDeferRelay holds the answer that Postfix gives by default: a stranger is
// told to come back, in case it is only the configuration that is wrong.
func TestDeferRelay(t *testing.T) {
	for _, c := range []struct {
		deferred bool
		code     int
	}{{true, 454}, {false, 554}} {
		r := &request{to: mail.Address("a@elsewhere.example")}
		if got := denied(&Config{DeferRelay: c.deferred}, r); got.Code != c.code {
			t.Errorf("DeferRelay %v: %d", c.deferred, got.Code)
		}
	}
}
