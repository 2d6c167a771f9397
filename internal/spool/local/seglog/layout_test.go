package seglog

import (
	"encoding/hex"
	"testing"
)

// A header is read by every later version: what FORMAT calls layout 1 stays.
func TestHeaderLayoutStays(t *testing.T) {
	const want = "0807060504030201" + "0b00000000000000" + "0c00000000000000" + "0d000000" + "0e000000" +
		"03000000" + "04000000" + "11111111" + "22222222" + "02" + "01" + "0000" + "40000000" + "00000000"
	h := header{id: 11, batch: 12, seg: 13, start: 14, off: 64, headLen: 3, bodyLen: 4, headCRC: 0x11111111, bodyCRC: 0x22222222, kind: Message, flags: flagCopied}
	b := h.append(nil, 0x0102030405060708)
	if got := hex.EncodeToString(b[:headerLen-4]); len(b) != headerLen || got != want {
		t.Errorf("%d bytes\n%s, want\n%s", len(b), got, want)
	}
	var back header
	if !back.parse(b, 0x0102030405060708, 13, 64) || back != h {
		t.Errorf("read back %+v", back)
	}
}
