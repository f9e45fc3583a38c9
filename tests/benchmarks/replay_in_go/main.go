// A plain producer of the messages that the replay sends of detections: encoding/csv, a struct, its limits,
// google/uuid, encoding/json, and franz-go with a callback for each record. Idempotent and acks=all, as
// franz-go is by default.
package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
)

const vehicle = "vehicle-1"

type detection struct {
	VehicleID    string    `json:"vehicle_id"`
	SessionID    string    `json:"session_id"`
	Timestamp    time.Time `json:"timestamp"`
	FrameNumber  int64     `json:"frame_number"`
	TimestampSec float64   `json:"timestamp_sec"`
	PixelU       float64   `json:"pixel_u"`
	PixelV       float64   `json:"pixel_v"`
	Confidence   float64   `json:"confidence"`
	ClassName    string    `json:"class_name"`
	VehicleLat   float64   `json:"vehicle_lat"`
	VehicleLon   float64   `json:"vehicle_lon"`
	Heading      float64   `json:"heading"`
	DetectionID  uuid.UUID `json:"detection_id"`
	IngestedAt   time.Time `json:"ingested_at"`
}

func (d detection) valid() bool {
	return d.FrameNumber >= 0 && d.TimestampSec >= 0 && d.PixelU >= 0 && d.PixelV >= 0 &&
		d.Confidence >= 0 && d.Confidence <= 1 && d.VehicleLat >= -90 && d.VehicleLat <= 90 &&
		d.VehicleLon >= -180 && d.VehicleLon <= 180 && d.Heading >= 0 && d.Heading <= 360
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	path, servers, topic := os.Args[1], os.Args[2], os.Args[3]
	client, err := kgo.NewClient(
		kgo.SeedBrokers(servers),
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
	)
	check(err)
	file, err := os.Open(path)
	check(err)
	reader := csv.NewReader(file)
	reader.ReuseRecord = true
	_, err = reader.Read() // the header
	check(err)
	var sent, acked int64
	started, session, source := time.Now().UTC(), "session-"+uuid.NewString(), uuid.NewSHA1(uuid.NameSpaceURL, []byte(path))
	report := func(_ *kgo.Record, err error) {
		if err == nil {
			atomic.AddInt64(&acked, 1)
		}
	}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			break
		}
		check(err)
		seconds := number(row[1])
		reading := detection{
			vehicle, session, started.Add(time.Duration(seconds * float64(time.Second))),
			int64(number(row[0])), seconds, number(row[2]), number(row[3]), number(row[4]),
			row[5], number(row[6]), number(row[7]), number(row[8]),
			uuid.NewSHA1(source, strconv.AppendInt(nil, sent, 10)), time.Now().UTC(),
		}
		if !reading.valid() {
			check(fmt.Errorf("row %d is out of its limits", sent))
		}
		value, err := json.Marshal(reading)
		check(err)
		client.Produce(context.Background(), &kgo.Record{Key: []byte(vehicle), Value: value}, report)
		sent++
	}
	check(client.Flush(context.Background()))
	if acked != sent {
		check(fmt.Errorf("%d of %d acknowledged", acked, sent))
	}
}
