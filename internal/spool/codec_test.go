package spool

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
)

func sampleEnvelope() mail.Envelope {
	return mail.Envelope{
		ID: 178888000000000, Arrival: time.Unix(1_790_000_000, 123_456_789), Sender: "alice@example.com", Size: 4096,
		MessageID: "<1@example.com>", Origin: mail.FromSMTP,
		Client: mail.Client{
			Name: "mx.example.com", ReverseName: "mx.example.com", Addr: "192.0.2.7", Port: 40000, Helo: "mx", Protocol: "ESMTP",
			TLS: "TLSv1.3", ServerAddr: "192.0.2.1", ServerPort: 25, SASLMethod: "PLAIN", SASLUser: "alice", SASLSender: "alice@x", UID: -1,
		},
		FullName: "Alice", OrigID: 7, Body8Bit: true, SMTPUTF8: true, EnvelopeID: "QQ", Ret: mail.RetHeaders,
		Recipients: []mail.Recipient{
			{Address: "bob@example.org", OrigAddress: "Bob@example.org", DSNOriginal: "rfc822;bob@example.org", Notify: mail.NotifyDelay},
			{Address: "carol@example.net"},
		},
	}
}

func sampleBatch() *Batch {
	at := time.Unix(1_790_000_000, 0)
	return (&Batch{}).Add(
		SetState{ID: 5, State: mail.State{Created: at, Hold: true, HoldReason: "alice"}},
		SetRecipients{ID: 5, Changes: []RecipientChange{
			{Index: 0, State: mail.RecipientState{Phase: mail.Sent, Attempts: 1, LastAttempt: at, Last: mail.NewStatus("2.0.0", "ok")}},
			{Index: 300, State: mail.RecipientState{Attempts: 2, NextAttempt: at, Last: mail.Status{Code: mail.EnhancedCode{4, 4, 1}, Text: "x", RemoteMTA: "mx", DiagType: "smtp", DiagText: "451"}}},
		}},
		Remove{ID: 9}, Put{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 300)}, Delete{Key: []byte("d")}, Put{Key: []byte("empty"), Value: nil},
	)
}

var sameMeaning = cmp.Options{cmpopts.EquateEmpty()}

func TestCodecKeepsEveryField(t *testing.T) {
	env := sampleEnvelope()
	got, err := DecodeEnvelope(AppendEnvelope([]byte("prefix"), &env)[len("prefix"):])
	if err != nil || !cmp.Equal(env, got, sameMeaning) {
		t.Errorf("envelope: %v\n%s", err, cmp.Diff(env, got, sameMeaning))
	}
	batch := sampleBatch()
	gotBatch, err := DecodeBatch(AppendBatch(nil, batch))
	if err != nil || !cmp.Equal(batch, gotBatch, sameMeaning) {
		t.Errorf("batch: %v\n%s", err, cmp.Diff(batch, gotBatch, sameMeaning))
	}
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 200, 400)
		when := rapid.Custom(func(t *rapid.T) time.Time {
			if rapid.Bool().Draw(t, "zero") {
				return time.Time{}
			}
			return time.Unix(0, rapid.Int64Min(-1<<63+1).Draw(t, "nanoseconds"))
		})
		state := mail.State{
			Created: when.Draw(t, "created"), Hold: rapid.Bool().Draw(t, "hold"), HoldReason: text.Draw(t, "holdReason"),
			ForceExpire: rapid.Bool().Draw(t, "expire"), Requeue: rapid.Bool().Draw(t, "requeue"), Warned: rapid.Bool().Draw(t, "warned"),
			DeletedAt: when.Draw(t, "deletedAt"), DeletedBy: text.Draw(t, "deletedBy"), Corrupt: text.Draw(t, "corrupt"),
		}
		if got, err := DecodeState(AppendState(nil, &state)); err != nil || !cmp.Equal(state, got) {
			t.Fatalf("state: %v\n%s", err, cmp.Diff(state, got))
		}
		code := rapid.Uint16()
		rcpt := mail.RecipientState{
			Phase: mail.Phase(rapid.Uint8().Draw(t, "phase")), Attempts: rapid.Uint32().Draw(t, "attempts"),
			LastAttempt: when.Draw(t, "last"), NextAttempt: when.Draw(t, "next"), Notified: rapid.Bool().Draw(t, "notified"),
			Last: mail.Status{
				Code: mail.EnhancedCode{code.Draw(t, "c0"), code.Draw(t, "c1"), code.Draw(t, "c2")}, Text: text.Draw(t, "text"),
				RemoteMTA: text.Draw(t, "mta"), DiagType: text.Draw(t, "diagType"), DiagText: text.Draw(t, "diagText"),
			},
		}
		if got, err := DecodeRecipientState(AppendRecipientState(nil, &rcpt)); err != nil || !cmp.Equal(rcpt, got) {
			t.Fatalf("recipient: %v\n%s", err, cmp.Diff(rcpt, got))
		}
		env := mail.Envelope{
			ID: mail.QueueID(rapid.Uint64().Draw(t, "id")), Arrival: when.Draw(t, "arrival"), Size: rapid.Int64().Draw(t, "size"),
			Client: mail.Client{UID: rapid.Int().Draw(t, "uid"), Name: text.Draw(t, "name")},
		}
		for range rapid.IntRange(0, 20).Draw(t, "recipients") {
			env.Recipients = append(env.Recipients, mail.Recipient{Address: mail.Address(text.Draw(t, "to")), Notify: mail.Notify(rapid.Uint8().Draw(t, "notify"))})
		}
		if got, err := DecodeEnvelope(AppendEnvelope(nil, &env)); err != nil || !cmp.Equal(env, got, sameMeaning) {
			t.Fatalf("envelope: %v\n%s", err, cmp.Diff(env, got, sameMeaning))
		}
	})
}

// A field added by a later version must not stop this one from reading.
func TestCodecSkipsUnknownFields(t *testing.T) {
	env := sampleEnvelope()
	b := AppendEnvelope(nil, &env)
	b = appendUint(b, 60, 1<<40)
	b = appendString(b, 61, "from the future")
	if got, err := DecodeEnvelope(b); err != nil || !cmp.Equal(env, got, sameMeaning) {
		t.Errorf("%v\n%s", err, cmp.Diff(env, got, sameMeaning))
	}
}

func TestCodecRefuses(t *testing.T) {
	if _, err := DecodeEnvelope(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty: %v", err)
	}
	if _, err := DecodeState([]byte{9}); !errors.Is(err, ErrFormat) {
		t.Errorf("format: %v", err)
	}
	if _, err := DecodeBatch([]byte{codecFormat, 60<<1 | kindBytes, 0}); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown change: %v", err)
	}
	env := sampleEnvelope()
	b := AppendEnvelope(nil, &env)
	if _, err := DecodeEnvelope(b[:len(b)-1]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("cut short: %v", err)
	}
}

// fuzzDecode checks that decoding b does not panic, allocates in proportion to
// b, and that what decodes without error encodes and decodes to the same.
func fuzzDecode[T any](t *testing.T, b []byte, decode func([]byte) (T, error), encode func([]byte, T) []byte) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v, err := decode(b)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<10+500*uint64(len(b)) {
		t.Fatalf("%d bytes of input made %d bytes of allocation", len(b), used)
	}
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
		return
	}
	again, err := decode(encode(nil, v))
	if err != nil || !cmp.Equal(v, again, sameMeaning) {
		t.Fatalf("%v\n%s", err, cmp.Diff(v, again, sameMeaning))
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	env := sampleEnvelope()
	f.Add(AppendEnvelope(nil, &env))
	f.Add([]byte{codecFormat})
	f.Add([]byte{codecFormat, tagEnvRecipientCount << 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{codecFormat, tagEnvClient<<1 | kindBytes, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzDecode(t, b, DecodeEnvelope, func(b []byte, e mail.Envelope) []byte { return AppendEnvelope(b, &e) })
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add(AppendState(nil, &mail.State{Created: time.Unix(1, 1), HoldReason: "x", Hold: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzDecode(t, b, DecodeState, func(b []byte, s mail.State) []byte { return AppendState(b, &s) })
		fuzzDecode(t, b, DecodeRecipientState, func(b []byte, s mail.RecipientState) []byte { return AppendRecipientState(b, &s) })
	})
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(AppendBatch(nil, sampleBatch()))
	f.Add([]byte{codecFormat, tagOpSetRecipients<<1 | kindBytes, 2, tagChangeRecipient<<1 | kindBytes, 0})
	f.Fuzz(func(t *testing.T, b []byte) { fuzzDecode(t, b, DecodeBatch, AppendBatch) })
}

func BenchmarkEnvelope(b *testing.B) {
	env := sampleEnvelope()
	buf := AppendEnvelope(nil, &env)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = AppendEnvelope(buf[:0], &env)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeEnvelope(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
